// The grid that every half-quadratic solver starts from, and the whole solver where `optimize` is off.

import { type HostTensor, toFloat32 } from '@lowbit/core';
import type { MinMaxRules } from '../grid.ts';
import { eachTile, type Layer, ofTile } from '../layer.ts';
import type { Settings } from '../options.ts';
import type { GroupSolver } from '../solver.ts';
import type { Tile } from '../tiles.ts';

/** How the settings want ranges turned into grids. */
function minMaxRules(s: Settings, levels: number): MinMaxRules {
  return { levels, roundZero: s.roundZero, smallRange: s.release !== '0.1.8' };
}

export function minMax(s: Settings): GroupSolver {
  return { kind: 'groups', begin: (layer) => (weights, tile) => tileGrid(s, layer, weights, tile) };
}

async function tileGrid(s: Settings, layer: Layer, weights: HostTensor, tile: Tile) {
  const work = tile.groups * layer.tiling.size;
  const outputs = await layer.call('hqq.min-max', tile, [weights], minMaxRules(s, layer.levels), work);
  const [inverse, zero] = outputs.map(toFloat32) as [Float32Array, Float32Array];
  if (layer.backed('hqq.min-max') && inverse.some(Number.isNaN)) await layer.store.refuse(tile);
  return { codes: 'solved' as const, inverse, zero };
}

/** Starting grids of a whole weight, in tile order: one pass. */
export async function startingGrid(s: Settings, layer: Layer, signal: AbortSignal | undefined) {
  const inverse = new Float32Array(layer.tiling.groups);
  const zero = new Float32Array(layer.tiling.groups);
  await eachTile(layer, signal, async (weights, tile) => {
    const grid = await tileGrid(s, layer, weights, tile);
    ofTile(inverse, tile).set(grid.inverse);
    ofTile(zero, tile).set(grid.zero);
  });
  return { codes: 'solved' as const, inverse, zero };
}
