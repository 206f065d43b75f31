// Rounding a number to a narrower float and back without going through its 16 bits: the fast form of `roundTo` for inner loops.

import type { ComputeDType } from './parts.ts';

const float = new Float32Array(1);
const word = new Uint32Array(float.buffer);

/** As roundTo('bf16', value). */
export function roundBf16(value: number): number {
  float[0] = value;
  const u = word[0]!;
  if ((u & 0x7fffffff) > 0x7f800000) return Number.NaN;
  word[0] = (u + 0x7fff + ((u >>> 16) & 1)) & 0xffff0000;
  return float[0]!;
}

/** As roundTo('f16', value). */
export function roundF16(value: number): number {
  float[0] = value;
  const u = word[0]!;
  const magnitude = u & 0x7fffffff;
  if (magnitude < 0x38800000) {
    // Below 2^-14 f16 counts in units of 2^-24, which is the unit of f32 between 0.5 and 1: adding 0.5 rounds, taking it away is exact.
    float[0] = Math.abs(float[0]!) + 0.5;
    const small = float[0]! - 0.5;
    return u >>> 31 === 0 ? small : -small;
  }
  if (magnitude >= 0x477ff000)
    return magnitude > 0x7f800000 ? Number.NaN : u >>> 31 === 0 ? Number.POSITIVE_INFINITY : Number.NEGATIVE_INFINITY;
  word[0] = (u + 0xfff + ((u >>> 13) & 1)) & 0xffffe000;
  return float[0]!;
}

/** The rounding to a dtype. */
export function rounding(dtype: ComputeDType): (value: number) => number {
  return dtype === 'f16' ? roundF16 : dtype === 'bf16' ? roundBf16 : Math.fround;
}
