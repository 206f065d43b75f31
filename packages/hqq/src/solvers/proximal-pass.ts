// Half-quadratic steps over all tiles of a weight, here, on other threads, or on a backend.

import { elements, type HostTensor, hostTensor, type QuantizeContext, toFloat32 } from '@lowbit/core';
import { eachTile, type Layer, ofTile } from '../layer.ts';
import type { Tile } from '../tiles.ts';

type Context = Pick<QuantizeContext, 'signal'>;
type SolvedGrid = { readonly inverse: Float32Array; readonly zero: Float32Array };

/** Constants of all steps. */
export interface Steps {
  readonly norm: number;
  /** Of the first step; each has `kappa` times that of the one before. */
  readonly beta: number;
  readonly kappa: number;
  /** Most steps that will be taken. */
  readonly iterations: number;
}

/**
 * The steps of a weight: each call takes one. It replaces the zeros of the grid and gives the mean absolute error of the layer under the zeros it found,
 * as float32, which is how errors are compared.
 */
export function proximalPasses(layer: Layer, grid: SolvedGrid, steps: Steps, context: Context): () => Promise<number> {
  const { groups, size, tiles } = layer.tiling;
  const settled = new Uint8Array(groups);
  const left = tiles.map((tile) => tile.groups); // groups of each tile that have not settled
  const errors = tiles.map((): TileErrors => ({ moving: 0, settled: 0 }));
  const betas = [steps.beta];
  while (betas.length < steps.iterations) betas.push(betas.at(-1)! * steps.kappa);
  const lastBeta = betas.at(-1)!;
  const atOnce = layer.backed('hqq.proximal-steps') ? STEPS_AHEAD : 1;
  let taken = 0;
  let ahead: (Ahead | undefined)[] = []; // by tile

  const take = async (weights: HostTensor, tile: Tile, index: number): Promise<Ahead> => {
    const inputs = [
      weights,
      ...[ofTile(grid.inverse, tile), ofTile(grid.zero, tile)].map(floats),
      hostTensor('u8', [tile.groups], ofTile(settled, tile)),
    ];
    const params = { levels: layer.levels, norm: steps.norm, betas: betas.slice(taken, taken + atOnce), lastBeta };
    const [zeros, newSettled, sums] = await layer.call('hqq.proximal-steps', tile, inputs, params, left[index]! * size);
    ofTile(settled, tile).set(newSettled!.data);
    return { zeros: toFloat32(zeros!), sums: elements({ dtype: 'f64', data: sums!.data }) };
  };

  return async () => {
    const step = taken % atOnce;
    if (step === 0) ahead = await eachTile(layer, context.signal, take, (index) => left[index]! > 0);
    taken++;
    for (const [index, tile] of tiles.entries()) {
      const found = ahead[index];
      if (!found) continue;
      const { zeros, sums } = found;
      ofTile(grid.zero, tile).set(zeros.subarray(step * tile.groups, (step + 1) * tile.groups));
      errors[index]!.moving = sums[3 * step]!;
      errors[index]!.settled += sums[3 * step + 1]!;
      left[index] = sums[3 * step + 2]!;
    }
    return Math.fround(errors.reduce((sum, error) => sum + error.moving + error.settled, 0) / (groups * size));
  };
}

/**
 * Steps that a backend takes in one call, while a tile is in its caches. The steps after the one that the solver stops at are for nothing, and the zeros of
 * each are kept for a while: 4 bytes a group.
 */
const STEPS_AHEAD = 5;

/** Steps that were taken at once. */
interface Ahead {
  /** After each step, [steps, groups]. */
  readonly zeros: Float32Array;
  /** [steps, 3]. */
  readonly sums: Float64Array;
}

/** Sums of |w - Wr| of a tile's groups under the zeros that its last step found. */
interface TileErrors {
  moving: number;
  /** Of the groups that have settled. */
  settled: number;
}

function floats(values: Float32Array): HostTensor {
  return hostTensor('f32', [values.length], values);
}
