// One weight being quantized: its tiles, and the routines that work on a tile, on this thread, on others or on a backend.
//
// Everything that takes time is a routine of one tile, and results are put together in tile order: what runs where changes no byte. decisions/010.

import type { Affine, HostTensor, QuantizeContext, Routine, WeightReader } from '@lowbit/core';
import { callHere, type RoutineName, type TileParams } from './routines.ts';
import { TileStore } from './store.ts';
import { type Tile, type Tiling, tiling } from './tiles.ts';

export interface Layer {
  readonly store: TileStore;
  readonly tiling: Tiling;
  readonly levels: number;
  /** True for a routine that a backend runs. */
  backed(name: RoutineName): boolean;
  /** Runs a routine on one tile: a backend's if it has one; else `weights`, how many there are to look at, decides whether another thread is worth the way. */
  call(name: RoutineName, inputs: readonly HostTensor[], params: TileParams, weights: number): Promise<readonly HostTensor[]>;
}

/** Weights that a call must be for to go to another thread: about a tenth of a millisecond of work. */
const WORTH_A_THREAD = 1 << 15;

/** `backend`: its version of `hqq.min-max`, if the solver begins with that. */
export function openLayer(
  weight: WeightReader,
  format: Affine,
  context: Pick<QuantizeContext, 'budget' | 'workers' | 'routine'>,
  backend?: Routine,
): Layer {
  const t = tiling(format, weight.shape);
  const workers = t.tiles.length > 1 ? context.workers : undefined; // of a single tile there is nothing to share out
  const backed = (name: RoutineName): boolean => context.routine?.(name) !== undefined;
  return {
    store: new TileStore(weight, t, { budget: context.budget, workers, backend }),
    tiling: t,
    levels: format.levels,
    backed,
    async call(name, inputs, params, weights) {
      const faster = context.routine?.(name);
      if (faster) return faster(inputs, params);
      if (workers && weights >= WORTH_A_THREAD) return workers.routine(name)(inputs, params);
      return callHere(name, inputs, params);
    },
  };
}

/**
 * Visits all tiles, or those that are `wanted`, as many at a time as the store allows; results by tile. Stops at the first failure, when what is under way has ended.
 * Throws the signal's reason if it fired.
 */
export async function eachTile<T>(
  { store, tiling: { tiles } }: Layer,
  signal: QuantizeContext['signal'],
  visit: (weights: HostTensor, tile: Tile, index: number) => Promise<T>,
  wanted: (index: number) => boolean = () => true,
): Promise<T[]> {
  const results: T[] = [];
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < tiles.length) {
      const index = next++;
      try {
        signal?.throwIfAborted();
        if (wanted(index)) results[index] = await visit(await store.load(index), tiles[index]!, index);
        store.release(index);
      } catch (error) {
        next = tiles.length;
        throw error;
      }
    }
  };
  const ends = await Promise.allSettled(Array.from({ length: Math.min(store.atOnce, tiles.length) }, lane));
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
  return results;
}

/** The values of a tile's groups in an array in tile order: a view. */
export function ofTile<T extends Float32Array | Uint8Array>(values: T, tile: Tile): T {
  return values.subarray(tile.first, tile.first + tile.groups) as T;
}

/** Values in tile order, by group number. */
export function byGroup(values: Float32Array, { tiles, groups }: Tiling): Float32Array {
  const out = new Float32Array(groups);
  for (const tile of tiles) {
    let at = tile.first;
    for (const run of tile.runs) {
      out.set(values.subarray(at, at + run.to - run.from), run.from);
      at += run.to - run.from;
    }
  }
  return out;
}

/** Values by group number, in tile order. */
export function byTile(values: Float32Array, { tiles, groups }: Tiling): Float32Array {
  const out = new Float32Array(groups);
  for (const tile of tiles) {
    let at = tile.first;
    for (const run of tile.runs) {
      out.set(values.subarray(run.from, run.to), at);
      at += run.to - run.from;
    }
  }
  return out;
}
