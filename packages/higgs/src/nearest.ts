// The nearest grid point, as it is defined: the code c with the largest score 2 x . point[c] - |point[c]|^2, the lowest one if several have it. Every
// operation rounds to float32 in the order written here, without fused multiply-adds. Slow and clear; the searches in buckets.ts and midpoints.ts give the same codes.

import type { Grid } from './grid.ts';

/** Writes the codes of vectors 0 .. count - 1, `dim` numbers each, from codes[at] on. */
export type NearestSearch = (vectors: Float32Array, count: number, codes: Uint8Array, at: number) => void;

const { fround } = Math;

/** Looks at every point. */
export function bruteForce(grid: Grid): NearestSearch {
  const { dim } = grid;
  const find = dim === 1 ? nearest1(grid) : undefined;
  const findPair = dim === 2 ? nearest2(grid) : undefined;
  return (vectors, count, codes, at) => {
    if (find) for (let i = 0; i < count; i++) codes[at + i] = find(vectors[i]!);
    if (findPair) for (let i = 0; i < count; i++) codes[at + i] = findPair(vectors[2 * i]!, vectors[2 * i + 1]!);
  };
}

/** The nearest point of a scalar grid. */
export function nearest1({ points, norms, size }: Grid): (x: number) => number {
  return (x) => {
    let best = 0;
    let most = fround(fround(2 * x * points[0]!) - norms[0]!);
    for (let c = 1; c < size; c++) {
      const score = fround(fround(2 * x * points[c]!) - norms[c]!);
      if (score > most) {
        most = score;
        best = c;
      }
    }
    return best;
  };
}

/** The nearest point of a grid of pairs. */
export function nearest2({ points, norms, size }: Grid): (x: number, y: number) => number {
  return (x, y) => {
    let best = 0;
    let most = Number.NEGATIVE_INFINITY;
    for (let c = 0; c < size; c++) {
      const dot = fround(fround(2 * x * points[2 * c]!) + fround(2 * y * points[2 * c + 1]!));
      const score = fround(dot - norms[c]!);
      if (score > most) {
        most = score;
        best = c;
      }
    }
    return best;
  };
}
