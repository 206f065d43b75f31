// Half-quadratic steps over all tiles of a weight, here, on other threads, or on a backend.

import { elements, type HostTensor, hostTensor, type QuantizeContext, toFloat32 } from '@lowbit/core';
import { eachTile, type Layer, ofTile } from '../layer.ts';
import type { Tile } from '../tiles.ts';
import type { Shrinkage } from './proximal-step.ts';

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
  let { beta } = steps;
  let lastBeta = beta;
  for (let i = 1; i < steps.iterations; i++) lastBeta *= steps.kappa;

  const take = async (weights: HostTensor, tile: Tile, index: number): Promise<void> => {
    const zero = ofTile(grid.zero, tile);
    const error = errors[index]!;
    const inputs = [weights, ...[ofTile(grid.inverse, tile), zero].map(floats), hostTensor('u8', [tile.groups], ofTile(settled, tile))];
    const shrinkage: Shrinkage = { norm: steps.norm, beta, lastBeta };
    const params = { levels: layer.levels, ...shrinkage };
    const [newZero, newSettled, sums] = await layer.call('hqq.proximal-step', inputs, params, left[index]! * size);
    zero.set(toFloat32(newZero!));
    ofTile(settled, tile).set(newSettled!.data);
    const [moving, stopped, count] = elements({ dtype: 'f64', data: sums!.data });
    error.moving = moving!;
    error.settled += stopped!;
    left[index] = count!;
  };

  return async () => {
    await eachTile(layer, context.signal, take, (index) => left[index]! > 0);
    beta *= steps.kappa;
    return Math.fround(errors.reduce((sum, error) => sum + error.moving + error.settled, 0) / (groups * size));
  };
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
