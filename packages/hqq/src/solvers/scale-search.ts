// The scale grid search that the library's v2 solver offers: codes stay those of the starting grid, and of 129 inverse scales evenly spaced within
// 5 % of the layer's mean inverse scale around a group's own, the one with the smallest mean absolute error of the group is taken. The library's code
// works on axis 0 only; groups are groups here.

import { hostTensor, toFloat32 } from '@lowbit/core';
import { type GroupBlock, ROUND } from '../grid.ts';
import { eachTile, type Layer, ofTile } from '../layer.ts';

const fround = Math.fround;
const round = ROUND;
const CANDIDATES = 129;
/** Inverse scales are kept this far from zero. */
const LEAST = fround(2e-4);

/** Replaces the inverse scales of the grid: one pass. */
export async function searchScales(
  layer: Layer,
  grid: { readonly inverse: Float32Array; readonly zero: Float32Array },
  signal: AbortSignal | undefined,
): Promise<void> {
  let sum = 0;
  for (const s of grid.inverse) sum += Math.abs(s);
  const range = fround(fround(sum / grid.inverse.length) * 0.05);
  const { levels, tiling } = layer;
  await eachTile(layer, signal, async (weights, tile) => {
    const tensors = [grid.inverse, grid.zero].map((values) => hostTensor('f32', [tile.groups], ofTile(values, tile)));
    const work = CANDIDATES * tile.groups * tiling.size;
    const [found] = await layer.call('hqq.scale-search', [weights, ...tensors], { levels, range }, work);
    ofTile(grid.inverse, tile).set(toFloat32(found!));
  });
}

/** As searchScales, for one block. */
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
