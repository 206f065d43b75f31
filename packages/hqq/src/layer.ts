// One weight being quantized: its tiles, and the routines that work on a tile, on this thread, on others or on a backend.
//
// Everything that takes time is a routine of one tile, and results are put together in tile order: what runs where changes no byte. decisions/010.

import { type Affine, elements, type HostTensor, type QuantizeContext, type WeightReader } from '@lowbit/core';
import { type BackendRoutine, callHere, type RoutineName, type TileParams } from './routines.ts';
import { TileStore } from './store.ts';
import { type Tile, type Tiling, tiling } from './tiles.ts';

export interface Layer extends AsyncDisposable {
  readonly store: TileStore;
  readonly tiling: Tiling;
  readonly levels: number;
  /** True for a routine that a backend runs. */
  backed(name: RoutineName): boolean;
  /** The weights of a tile, valid until the store releases it; without bytes where a backend holds them from the call before. */
  load(index: number): Promise<HostTensor>;
  /**
   * Runs a routine on a tile, whose weights are the first input: a backend's if it has one; else `count`, how many weights there are to look at, decides whether
   * another thread is worth the way.
   */
  call(name: RoutineName, tile: Tile, inputs: readonly HostTensor[], params: TileParams, count: number): Promise<readonly HostTensor[]>;
}

/** Weights that a call must be for to go to another thread: about a tenth of a millisecond of work. */
const WORTH_A_THREAD = 1 << 15;

/** `begins`: the routine that sees tiles first; the backend that has it may hold them. Dispose the layer when nothing works on it any more. */
export async function openLayer(
  weight: WeightReader,
  format: Affine,
  context: Pick<QuantizeContext, 'budget' | 'workers' | 'routine'>,
  begins: RoutineName,
): Promise<Layer> {
  const t = tiling(format, weight.shape);
  const workers = t.tiles.length > 1 ? context.workers : undefined; // of a single tile there is nothing to share out
  const backends = (name: RoutineName) => context.routine?.(name) as BackendRoutine | undefined;
  const first = backends(begins);
  const holder = first?.held;
  const store = new TileStore(weight, t, { budget: context.budget, workers, backend: holder ?? first });
  const { dtype } = store;
  const [number] = (await holder?.([], { hold: { dtype, count: t.groups * t.size } })) ?? [];
  const held = number && elements({ dtype: 'f64', data: number.data })[0]!;
  const brought = new Set<Tile>();
  const known = ({ shape }: Pick<HostTensor, 'shape'>): HostTensor => ({ dtype, shape, data: new Uint8Array(0) });
  return {
    store,
    tiling: t,
    levels: format.levels,
    backed: (name) => backends(name) !== undefined,
    async load(index) {
      const tile = t.tiles[index]!;
      return brought.has(tile) ? known({ shape: [tile.groups, t.size] }) : store.load(index);
    },
    async [Symbol.asyncDispose]() {
      store[Symbol.dispose]();
      // A backend that is gone has given all back.
      if (held !== undefined) await holder!([], { release: held }).catch(() => {});
    },
    async call(name, tile, [weights, ...more], params, count) {
      const backend = backends(name);
      if (held !== undefined && backend?.held === holder) {
        const all = [brought.has(tile) ? known(weights!) : weights!, ...more];
        const outputs = await holder!(all, { held, first: tile.first * t.size, routine: name, params });
        brought.add(tile);
        return outputs;
      }
      // Of a tile that is held elsewhere the weights are read again.
      const inputs = [weights!.data.length > 0 ? weights! : await store.load(t.tiles.indexOf(tile)), ...more];
      if (backend) return backend(inputs, params);
      if (workers && count >= WORTH_A_THREAD) return workers.routine(name)(inputs, params);
      return callHere(name, inputs, params);
    },
  };
}

/**
 * Visits all tiles, or those that are `wanted`, as many at a time as the store allows; results by tile. Stops at the first failure, when what is under way has ended.
 * Throws the signal's reason if it fired.
 */
export async function eachTile<T>(
  { load, store, tiling: { tiles } }: Layer,
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
        if (wanted(index)) results[index] = await visit(await load(index), tiles[index]!, index);
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
