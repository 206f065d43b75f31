// x^y as packages/hqq/src/solvers/power.ts has it, operation by operation: dead zones of a step must be those of the TypeScript to the bit.

import { words64 } from '../wgsl/exact.ts';

/** x^y of a positive number, y from -1 to 1. */
export function power(x: number, y: number): number {
  const [high, low] = words64(x);
  const carry = ((high & 0xfffff) + 0x95f61) >>> 20;
  const n = (high >>> 20) - 1023 + carry;
  const bits = new DataView(new ArrayBuffer(8));
  bits.setUint32(0, (high & 0xfffff) | ((1023 - carry) << 20));
  bits.setUint32(4, low);
  const a = bits.getFloat64(0);
  const s = (a - 1) / (a + 1);
  let series = 0;
  for (let k = 23; k > 0; k -= 2) series = series * s * s + 1 / k;
  const log2 = y * (n + s * series * (2 * Math.LOG2E));
  const whole = Math.floor(log2 + 0.5);
  const z = (log2 - whole) * Math.LN2;
  series = 1;
  for (let k = 16; k > 0; k--) series = series * z * (1 / k) + 1;
  return series * 2 ** whole;
}
