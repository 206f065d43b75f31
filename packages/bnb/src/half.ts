// Rounding float32 numbers to the values of float16, many at a time.

/** Smallest normal float16, as bits of a float32. */
const LEAST_NORMAL = 0x38800000;

/**
 * Rounds to the nearest float16, ties to even, kept as float32: `from` into `into`, of the same length. Magnitudes of 65520 and more come out as 65536
 * or more and are for the caller to refuse.
 */
export function roundToHalf(from: Float32Array, into: Float32Array): void {
  const source = new Uint32Array(from.buffer, from.byteOffset, from.length);
  const target = new Uint32Array(into.buffer, into.byteOffset, into.length);
  for (let i = 0; i < source.length; i++) {
    const u = source[i]!;
    // A float16 keeps 10 of the 23 bits; below its normal range its unit is 2^-24, which is that of float32 from 0.5 to 1.
    if ((u & 0x7fffffff) >= LEAST_NORMAL) target[i] = (u + 0xfff + ((u >>> 13) & 1)) & 0xffffe000;
    else into[i] = Math.fround(from[i]! + 0.75) - 0.75;
  }
}
