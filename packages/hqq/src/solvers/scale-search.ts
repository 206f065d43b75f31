// The scale grid search that the library's v2 solver offers: codes stay those of the starting grid, and of 129 inverse scales evenly spaced within
// 5 % of the layer's mean inverse scale around a group's own, the one with the smallest mean absolute error of the group is taken. The library's code
// works on axis 0 only; groups are groups here.

import { hostTensor, toFloat32 } from '@lowbit/core';
import { eachTile, type Layer, ofTile } from '../layer.ts';
import { CANDIDATES } from './search-block.ts';

const fround = Math.fround;

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
    const [found] = await layer.call('hqq.scale-search', tile, [weights, ...tensors], { levels, range }, work);
    ofTile(grid.inverse, tile).set(toFloat32(found!));
  });
}
