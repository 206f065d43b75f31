// The tiles of one weight as solvers see them: read when needed, kept in memory between passes if they fit, and the grid values that belong to each.

import { breather, type QuantizeContext, type WeightReader } from '@lowbit/core';
import type { GroupBlock } from './grid.ts';
import { loadTile, type Tile, type Tiling } from './tiles.ts';

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

/** One weight being quantized. */
export interface Layer {
  readonly store: TileStore;
  readonly tiling: Tiling;
  readonly levels: number;
}

/** Visits all tiles in order. Throws the signal's reason if it fired. */
export async function eachTile(
  { store, tiling }: Layer,
  signal: QuantizeContext['signal'],
  visit: (block: GroupBlock, tile: Tile) => void | Promise<void>,
): Promise<void> {
  for (const [index, tile] of tiling.tiles.entries()) {
    signal?.throwIfAborted();
    await visit(await store.load(index), tile);
  }
}

/** Copies the values of a tile's groups into one run. */
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

/** Puts the values of a tile's groups back by group number. */
export function scatter(from: Float32Array, tile: Tile, values: Float32Array): void {
  let at = 0;
  for (const run of tile.runs) {
    values.set(from.subarray(at, at + run.to - run.from), run.from);
    at += run.to - run.from;
  }
}
