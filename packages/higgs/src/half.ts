// Rounding arrays of float32 to 16-bit floats in place, ties to even: what writing and reading them back gives, without the arrays between.

import type { ScaleDtype } from './options.ts';

/**
 * By the sign and exponent of a float32 (its upper 9 bits): in float64 `x + c - c` is the nearest float16, since c is 1.5 times a power of two so much larger
 * than x that the sum keeps 10 bits below the exponent of x, and from 2^-14 downwards multiples of 2^-24.
 */
const HALF_ROUNDERS = Float64Array.from({ length: 512 }, (_, upper) => {
  const exponent = Math.max((upper & 255) - 127, -14);
  return 1.5 * 2 ** 52 * 2 ** (exponent - 10);
});

/** Rounds finite numbers that do not overflow the dtype; the sign of a zero may be lost. `words` are the same bytes as `values`. */
export function roundInPlace(values: Float32Array, words: Uint32Array, dtype: ScaleDtype): void {
  const count = values.length;
  if (dtype === 'bf16') {
    for (let i = 0; i < count; i++) words[i] = (words[i]! + 0x7fff + ((words[i]! >>> 16) & 1)) & 0xffff0000;
  } else if (dtype === 'f16') {
    const rounders = HALF_ROUNDERS; // a module's variable would be loaded and checked for every number
    for (let i = 0; i < count; i++) {
      const c = rounders[words[i]! >>> 23]!;
      values[i] = values[i]! + c - c;
    }
  }
}
