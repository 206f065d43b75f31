// x^y by an algorithm of our own: engines of JavaScript may differ in the last bits of theirs, and a backend in native code must give the same bytes.
// packages/kernels-cpu/native/dispatch/power.h is the same, operation by operation.

const double = new Float64Array(1);
const words = new Uint32Array(double.buffer); // the low one first: all machines that JavaScript runs on are little-endian

/**
 * x^y of a positive float32 number x, and y from -1 to 1, within 2^-44 of it: y log2 x, whose fraction goes through the series of the exponential function.
 * The logarithm of x = a 2^n with a between the roots of 1/2 and 2 is n ln 2 + 2 artanh s, s = (a - 1) / (a + 1).
 */
export function power(x: number, y: number): number {
  double[0] = x;
  const carry = ((words[1]! & 0xfffff) + 0x95f61) >>> 20; // 1 from the root of 2 on
  const n = (words[1]! >>> 20) - 1023 + carry;
  words[1] = (words[1]! & 0xfffff) | ((1023 - carry) << 20);
  const s = (double[0]! - 1) / (double[0]! + 1);
  let series = 0;
  for (let k = 23; k > 0; k -= 2) series = series * s * s + 1 / k;
  const log2 = y * (n + s * series * (2 * Math.LOG2E));
  const whole = Math.floor(log2 + 0.5);
  const z = (log2 - whole) * Math.LN2;
  series = 1;
  for (let k = 16; k > 0; k--) series = series * z * (1 / k) + 1;
  return series * 2 ** whole;
}
