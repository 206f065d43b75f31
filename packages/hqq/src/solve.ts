// Solving the grid of a whole weight: the starting grid, then proximal steps over all tiles until the mean error of the layer stops falling.
//
// The stop test couples all groups of a layer, so a tile cannot be finished on its own. Instead of holding the weight, only scales and zeros are
// kept (8 bytes a group) and the tiles are read again at every step; when the weight fits the budget the tiles stay in memory between steps.

import { breather, elements, hostTensor, type QuantizeContext, type WeightReader } from '@lowbit/core';
import { type GroupBlock, minMaxGrid } from './grid.ts';
import type { Settings } from './options.ts';
import { proximalStep, type Shrinkage } from './proximal.ts';
import { loadTile, type Tile, type Tiling } from './tiles.ts';

/** Grid of every group, by group number. */
export interface Grid {
  /** Inverse scales: q = w * inverse + zero. f32 [groups] */
  readonly inverse: Float32Array;
  /** f32 [groups] */
  readonly zero: Float32Array;
  /** Mean absolute error of the layer found by each step taken. */
  readonly errors: readonly number[];
}

/** The tiles of a weight, kept in memory between steps if they fit. */
export class TileStore {
  readonly #weight: WeightReader;
  readonly #tiling: Tiling;
  readonly #kept: Float32Array[] | undefined;
  #scratch = new Float32Array(0);
  readonly #breathe = breather();

  constructor(weight: WeightReader, tiling: Tiling, budget: number) {
    this.#weight = weight;
    this.#tiling = tiling;
    const bytes = 4 * weight.shape[0] * weight.shape[1];
    this.#kept = bytes <= budget ? [] : undefined;
  }

  /** The weights of a tile; valid until the next call. Lets the event loop run now and then. */
  async load(index: number): Promise<GroupBlock> {
    await this.#breathe();
    const tile = this.#tiling.tiles[index]!;
    const count = tile.groups * this.#tiling.size;
    let weights = this.#kept?.[index];
    if (!weights) {
      if (this.#kept) weights = this.#kept[index] = new Float32Array(count);
      else {
        if (this.#scratch.length < count) this.#scratch = new Float32Array(count);
        weights = this.#scratch.subarray(0, count);
      }
      await loadTile(this.#weight, this.#tiling, tile, weights);
    }
    return { weights, groups: tile.groups, size: this.#tiling.size };
  }
}

/** Copies the grid values of a tile's groups into one run. */
export function gather(values: Float32Array, tile: Tile): Float32Array {
  if (tile.runs.length === 1) return values.slice(tile.runs[0]!.from, tile.runs[0]!.to);
  const out = new Float32Array(tile.groups);
  let at = 0;
  for (const run of tile.runs) {
    out.set(values.subarray(run.from, run.to), at);
    at += run.to - run.from;
  }
  return out;
}

function scatter(from: Float32Array, tile: Tile, values: Float32Array): void {
  let at = 0;
  for (const run of tile.runs) {
    values.set(from.subarray(at, at + run.to - run.from), run.from);
    at += run.to - run.from;
  }
}

/**
 * Finds scale and zero of every group.
 *
 * As in the Python library the zero is replaced before the stop test and not taken back: after a step that did not improve the error the newest
 * zero stands. Errors are compared as float32.
 */
export async function solveGrid(
  store: TileStore,
  tiling: Tiling,
  levels: number,
  settings: Settings,
  context: Pick<QuantizeContext, 'signal' | 'routine'>,
): Promise<Grid> {
  const inverse = new Float32Array(tiling.groups);
  const zero = new Float32Array(tiling.groups);
  for (const [index, tile] of tiling.tiles.entries()) {
    context.signal?.throwIfAborted();
    const block = await store.load(index);
    const s = new Float32Array(tile.groups);
    const z = new Float32Array(tile.groups);
    minMaxGrid(block, levels, settings.roundZero, s, z);
    scatter(s, tile, inverse);
    scatter(z, tile, zero);
  }
  const errors: number[] = [];
  if (!settings.optimize) return { inverse, zero, errors };

  const step = proximalRoutine(context);
  const { iterations, norm, kappa } = settings.solver;
  let { beta } = settings.solver;
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < iterations; i++, beta *= kappa) {
    let sum = 0;
    for (const [index, tile] of tiling.tiles.entries()) {
      context.signal?.throwIfAborted();
      const block = await store.load(index);
      const z = gather(zero, tile);
      sum += await step(block, levels, gather(inverse, tile), z, { norm, beta });
      scatter(z, tile, zero);
    }
    const error = Math.fround(sum / (tiling.groups * tiling.size));
    errors.push(error);
    if (error >= best) break;
    best = error;
  }
  return { inverse, zero, errors };
}

type Step = (
  block: GroupBlock,
  levels: number,
  inverse: Float32Array,
  zero: Float32Array,
  shrinkage: Shrinkage,
) => number | Promise<number>;

/**
 * `affine.proximal.step`: a backend's version if it has one, else `proximalStep`.
 * Routine inputs: weights f32 [groups, size], inverse f32 [groups], zero f32 [groups]; params levels, norm, beta; outputs: zero f32 [groups], error sum f64 [].
 */
function proximalRoutine(context: Pick<QuantizeContext, 'routine'>): Step {
  const routine = context.routine?.('affine.proximal.step');
  if (!routine) return proximalStep;
  return async (block, levels, inverse, zero, { norm, beta }) => {
    const { weights, groups, size } = block;
    const inputs = [hostTensor('f32', [groups, size], weights), hostTensor('f32', [groups], inverse), hostTensor('f32', [groups], zero)];
    const [newZero, error] = await routine(inputs, { levels, norm, beta });
    zero.set(elements({ dtype: 'f32', data: newZero!.data }));
    return elements({ dtype: 'f64', data: error!.data })[0]!;
  };
}
