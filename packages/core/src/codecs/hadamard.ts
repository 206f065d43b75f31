// The normalised Walsh-Hadamard transform in Sylvester (natural) order: H[i][j] = (-1)^popcount(i & j) / sqrt(n), symmetric and its own inverse.

import { LowbitError } from '../spec/errors.ts';

/** True for the block sizes that have a Hadamard matrix here: powers of two. */
export function isHadamardSize(block: number): boolean {
  return Number.isSafeInteger(block) && block >= 1 && Number.isInteger(Math.log2(block));
}

/**
 * Transforms every run of `block` consecutive values in place: sums in f64, one rounding to the array's numbers at the end.
 * Throws ERR_BAD_ARGUMENT unless `block` is a power of two that divides the number of values.
 */
export function hadamardBlocks(values: Float32Array | Float64Array, block: number): void {
  if (!isHadamardSize(block) || values.length % block !== 0) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `cannot transform ${values.length} values in blocks of ${block}`, {
      hint: 'The block must be a power of two that divides the number of values.',
      details: { values: values.length, block },
    });
  }
  const sums = new Float64Array(block);
  const norm = 1 / Math.sqrt(block);
  for (let start = 0; start < values.length; start += block) {
    for (let i = 0; i < block; i++) sums[i] = values[start + i]!;
    for (let half = 1; half < block; half *= 2) {
      for (let pair = 0; pair < block; pair += 2 * half) {
        for (let i = pair; i < pair + half; i++) {
          const a = sums[i]!;
          const b = sums[i + half]!;
          sums[i] = a + b;
          sums[i + half] = a - b;
        }
      }
    }
    for (let i = 0; i < block; i++) values[start + i] = sums[i]! * norm;
  }
}
