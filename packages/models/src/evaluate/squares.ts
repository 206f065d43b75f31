// Sums of products of channels over rows: what a matrix of second moments is made of.

import { breather } from '@lowbit/core';

/**
 * X^T X f64 [width, width] of X f32 [rows, width], each sum over the rows in order. A product of two f32 is exact in float64, so whether it is added by one rounding or
 * two makes no difference. Backends have it as `moments.squares`: X -> f64 [width, width]. Lets the event loop run; an abort throws the signal's reason.
 */
export async function squares(x: Float32Array, width: number, signal?: AbortSignal): Promise<Float64Array<ArrayBuffer>> {
  const breathe = breather();
  const rows = x.length / width;
  const sums = new Float64Array(width * width);
  // Columns of X as rows, filled up so that four go at once: their additions hide one another's latency.
  const columns = new Float64Array((width + 3) * rows);
  for (let row = 0; row < rows; row++) for (let i = 0; i < width; i++) columns[i * rows + row] = x[row * width + i]!;
  const four = new Float64Array(4);
  for (let a = 0; a < width; a++) {
    await breathe();
    signal?.throwIfAborted();
    for (let from = a; from < width; from += 4) {
      let [s0, s1, s2, s3] = [0, 0, 0, 0];
      for (let row = 0, at = from * rows; row < rows; row++, at++) {
        const value = columns[a * rows + row]!;
        s0 += value * columns[at]!;
        s1 += value * columns[at + rows]!;
        s2 += value * columns[at + 2 * rows]!;
        s3 += value * columns[at + 3 * rows]!;
      }
      four.set([s0, s1, s2, s3]);
      for (let b = from; b < Math.min(from + 4, width); b++) sums[a * width + b] = sums[b * width + a] = four[b - from]!;
    }
  }
  return sums;
}
