// x^y by an algorithm of our own: engines of JavaScript may differ in the last bit of theirs, and a backend in native code must give the same bytes.
//
// This is pow of fdlibm (e_pow.c, Sun Microsystems 1993, freely granted) for the arguments that there are: log2 of x in two parts, times y, then the power
// of two. Errors are below 0.7 units in the last place. packages/kernels-cpu/native/dispatch/power.h is the same, operation by operation.

const double = new Float64Array(1);
const words = new Uint32Array(double.buffer); // the low one first: all machines that JavaScript runs on are little-endian

/** The upper half of a number: its low word is zero. */
function upper(x: number): number {
  double[0] = x;
  words[0] = 0;
  return double[0]!;
}

function ofHighWord(high: number): number {
  words[0] = 0;
  words[1] = high;
  return double[0]!;
}

/** x^y of a positive float32 number x, and y from -1 to 1. */
export function power(x: number, y: number): number {
  double[0] = x;
  let high = words[1]!;
  let n = (high >>> 20) - 1023;
  const fraction = high & 0xfffff;
  high = fraction | 0x3ff00000;
  const third = fraction > 0x3988e && fraction < 0xbb67a; // between the roots of 3/2 and of 3: near 3/2
  if (fraction >= 0xbb67a) {
    n += 1;
    high -= 0x100000;
  }
  words[1] = high;
  const a = double[0]!;
  const near = third ? 1.5 : 1;
  const logHigh = third ? 5.849624872207642e-1 : 0;
  const logLow = third ? 1.350039202129749e-8 : 0;
  // s = (a - near) / (a + near) in two parts.
  const difference = a - near;
  const inverse = 1 / (a + near);
  const s = difference * inverse;
  const sHigh = upper(s);
  const sumHigh = ofHighWord(((high >> 1) | 0x20000000) + 0x80000 + (third ? 0x40000 : 0));
  const sumLow = a - (sumHigh - near);
  const sLow = inverse * (difference - sHigh * sumHigh - sHigh * sumLow);
  // log of a / near: a series in s.
  const s2 = s * s;
  const l45 = 2.3066074577556175e-1 + s2 * 2.0697501780033842e-1;
  const l25 = 4.285714285785502e-1 + s2 * (3.3333332981837743e-1 + s2 * (2.72728123808534e-1 + s2 * l45));
  const rest = s2 * s2 * (5.999999999999946e-1 + s2 * l25) + sLow * (sHigh + s);
  const square = sHigh * sHigh;
  const tHigh = upper(3 + square + rest);
  const tLow = rest - (tHigh - 3 - square);
  const u = sHigh * tHigh;
  const v = sLow * tHigh + tLow * s;
  const pHigh = upper(u + v);
  const pLow = v - (pHigh - u);
  const zHigh = 9.617967009544373e-1 * pHigh;
  const zLow = -7.028461650952758e-9 * pHigh + pLow * 9.617966939259756e-1 + logLow;
  const log = upper(zHigh + zLow + logHigh + n);
  const logRest = zLow - (log - n - logHigh - zHigh);
  // y log2 x in two parts, and the whole number next to it.
  const yHigh = upper(y);
  const low = (y - yHigh) * log + y * logRest;
  let most = yHigh * log;
  const whole = Math.floor(low + most + 0.5);
  most -= whole;
  const t = upper(low + most);
  const w = t * 6.931471824645996e-1;
  const e = (low - (t - most)) * 6.931471805599453e-1 + t * -1.904654299957768e-9;
  const z = w + e;
  const error = e - (z - w);
  const z2 = z * z;
  const p35 = 6.613756321437934e-5 + z2 * (-1.6533902205465252e-6 + z2 * 4.1381367970572385e-8);
  const c = z - z2 * (1.6666666666666602e-1 + z2 * (-2.7777777777015593e-3 + z2 * p35));
  return (1 - ((z * c) / (c - 2) - (error + z * error) - z)) * 2 ** whole;
}
