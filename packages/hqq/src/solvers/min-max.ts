// The grid that every half-quadratic solver starts from, and the whole solver where `optimize` is off.

import { type MinMaxRules, minMaxGrid } from '../grid.ts';
import type { Settings } from '../options.ts';
import type { GroupSolver } from '../solver.ts';
import { eachTile, type Layer, scatter } from '../store.ts';

/** How the settings want ranges turned into grids. */
export function minMaxRules(s: Settings, levels: number): MinMaxRules {
  return { levels, roundZero: s.roundZero, smallRange: s.release !== '0.1.8' };
}

export function minMax(s: Settings): GroupSolver {
  return {
    kind: 'groups',
    begin:
      ({ levels }) =>
      (block) => {
        const inverse = new Float32Array(block.groups);
        const zero = new Float32Array(block.groups);
        minMaxGrid(block, minMaxRules(s, levels), inverse, zero);
        return { codes: 'solved', inverse, zero };
      },
  };
}

/** Starting grids of a whole weight, by group number: one pass. */
export async function startingGrid(s: Settings, layer: Layer, signal: AbortSignal | undefined) {
  const inverse = new Float32Array(layer.tiling.groups);
  const zero = new Float32Array(layer.tiling.groups);
  await eachTile(layer, signal, (block, tile) => {
    const tileInverse = new Float32Array(tile.groups);
    const tileZero = new Float32Array(tile.groups);
    minMaxGrid(block, minMaxRules(s, layer.levels), tileInverse, tileZero);
    scatter(tileInverse, tile, inverse);
    scatter(tileZero, tile, zero);
  });
  return { codes: 'solved' as const, inverse, zero };
}
