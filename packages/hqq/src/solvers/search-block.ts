// The scale grid search on one block of groups.

import { type GroupBlock, ROUND } from '../grid.ts';

const fround = Math.fround;
const round = ROUND;
export const CANDIDATES = 129;
/** Inverse scales are kept this far from zero. */
const LEAST = fround(2e-4);

/** Replaces the inverse scales of a block: of 129 within `range` around each, that with the smallest mean absolute error of its group. See scale-search.ts. */
export function searchBlock(block: GroupBlock, levels: number, range: number, inverse: Float32Array, zero: Float32Array): void {
  const { weights, groups, size } = block;
  const codes = new Float64Array(size);
  const top = levels - 1;
  const spacing = fround((2 * range) / (CANDIDATES - 1));
  for (let g = 0, at = 0; g < groups; g++, at += size) {
    const own = inverse[g]!;
    const z = zero[g]!;
    for (let i = 0; i < size; i++) {
      const q = Math.min(Math.max(fround(fround(weights[at + i]! * own) + z) + round - round, 0), top);
      codes[i] = fround(q - z);
    }
    let best = Number.POSITIVE_INFINITY;
    for (let c = 0; c < CANDIDATES; c++) {
      let s = fround(own + fround((c - (CANDIDATES - 1) / 2) * spacing));
      if (Math.abs(s) <= LEAST) s = s < 0 ? -LEAST : LEAST;
      let error = 0;
      for (let i = 0; i < size; i++) error += Math.abs(fround(weights[at + i]! - fround(codes[i]! / s)));
      if (error < best) {
        best = error;
        inverse[g] = s;
      }
    }
  }
}
