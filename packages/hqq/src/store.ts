// The tiles of one weight as solvers see them: read when needed, kept in memory between passes if they fit, and several worked on at a time.

import {
  breather,
  DTYPE_BYTES,
  type DType,
  elements,
  type HostTensor,
  LowbitError,
  type Routine,
  type RoutinePool,
  type WeightReader,
} from '@lowbit/core';
import { Arena } from './arena.ts';
import { bandTiles, loadTiles, Scratch } from './load.ts';
import { TILE_WEIGHTS, type Tile, type Tiling } from './tiles.ts';

/** Weights of a tile: f32, or the bits of f16 or bf16. */
export type TileElements = Float32Array | Uint16Array;

/** Bytes a weight that work on a tile takes besides the tile: it as f32, its codes, those in the order of the packing, and the packed words. */
const WORK = 8;

/** Tiles under way where a backend does the work: it has the next when one is done, and one can be read meanwhile. */
const AT_BACKEND = 3;

export interface StoreOptions {
  /** Bytes to hold at once. */
  readonly budget: number;
  /** Threads that tiles are worked on by; absent: the one that calls. */
  readonly workers?: RoutinePool | undefined;
  /** A backend's routine that looks at the tiles first: they are kept as they are stored, if that can be had, and memory is used again as long as it lives. */
  readonly backend?: Routine | undefined;
}

/** Neighbouring tiles that are read together. */
interface Band {
  readonly members: readonly Tile[];
  loaded?: Promise<readonly HostTensor[]>;
  /** Memory of its tiles, once it is loaded. */
  memory?: readonly Uint8Array[];
  /** Tiles not given back yet. */
  left: number;
}

/**
 * Keeps the weight as float32 if that fits the budget, else in its own dtype if that has 16 bits and fits, else nothing: each pass then reads again.
 * Dispose it when no thread works on a tile any more.
 */
export class TileStore {
  /** Tiles to work on at a time, so that memory holds. */
  readonly atOnce: number;
  readonly #weight: WeightReader;
  readonly #tiling: Tiling;
  /** Of tiles. */
  readonly dtype: DType;
  readonly #kept: boolean;
  readonly #stored: boolean;
  readonly #bandTiles: number;
  readonly #bands = new Map<number, Band>();
  readonly #arena: Arena;
  /** Memory of bands that were given back, for those to come. */
  readonly #spare: (readonly Uint8Array[])[] = [];
  readonly #scratch = new Scratch();
  readonly #breathe = breather();
  #reading: Promise<unknown> = Promise.resolve();

  constructor(weight: WeightReader, tiling: Tiling, { budget, workers, backend }: StoreOptions) {
    const { name, shape, dtype } = weight;
    assertRoom(tiling, name, budget);
    this.#weight = weight;
    this.#tiling = tiling;
    const weights = shape[0] * shape[1];
    const tile = tiling.size * Math.max(...tiling.tiles.map(({ groups }) => groups));
    // One tile's work is not counted when it is decided what to keep: small budgets are for small weights.
    const narrow = dtype === 'f16' || dtype === 'bf16';
    this.#stored = backend !== undefined && weight.readStored !== undefined && (narrow || dtype === 'f32');
    this.dtype = narrow && (this.#stored || (4 * weights > budget && 2 * weights <= budget)) ? dtype : 'f32';
    const keeping = DTYPE_BYTES[this.dtype] * weights;
    this.#kept = keeping <= budget;
    const room = this.#kept ? budget - keeping : budget / 2;
    this.atOnce = Math.max(
      1,
      Math.min(
        backend ? AT_BACKEND : (workers?.threads ?? 1),
        tiling.tiles.length,
        Math.floor(room / ((this.#kept ? WORK : WORK + 4) * tile)),
      ),
    );
    // Two bands may be in memory at a time: one being finished, the next being worked on.
    this.#bandTiles = bandTiles(tiling, this.#kept ? Number.POSITIVE_INFINITY : Math.floor(budget / 2 / (8 * tile)));
    this.#arena = new Arena(backend ?? workers, this.#kept ? keeping + 8 * tiling.tiles.length : 4 * tile * this.#bandTiles);
  }

  /** The weights of a tile, [groups, size] f32, f16 or bf16; valid until `release`. Lets the event loop run now and then. */
  async load(index: number): Promise<HostTensor> {
    await this.#breathe();
    const band = this.#band(index);
    if (!band.loaded) {
      band.loaded = this.#reading.then(() => this.#read(band));
      this.#reading = band.loaded.catch(() => {}); // whoever waits for the band sees the failure
    }
    return (await band.loaded)[index % this.#bandTiles]!;
  }

  /** Once a pass for every tile, loaded or not: its memory goes, unless the weight is kept. */
  release(index: number): void {
    const band = this.#band(index);
    if (this.#kept || --band.left > 0) return;
    this.#bands.delete(this.#bandOf(index));
    if (band.memory) this.#spare.push(band.memory);
  }

  [Symbol.dispose](): void {
    this.#bands.clear();
    this.#arena[Symbol.dispose]();
  }

  #bandOf(index: number): number {
    return Math.floor(index / this.#bandTiles);
  }

  #band(index: number): Band {
    const number = this.#bandOf(index);
    let band = this.#bands.get(number);
    if (!band) {
      const members = this.#tiling.tiles.slice(number * this.#bandTiles, (number + 1) * this.#bandTiles);
      band = { members, left: members.length };
      this.#bands.set(number, band);
    }
    return band;
  }

  async #read(band: Band): Promise<readonly HostTensor[]> {
    const { size } = this.#tiling;
    const dtype = this.dtype;
    const width = DTYPE_BYTES[dtype];
    // Spare memory must do for any band: no tile has more groups than the first.
    const groups = this.#kept
      ? band.members.map((tile) => tile.groups)
      : new Array<number>(this.#bandTiles).fill(this.#tiling.tiles[0]!.groups);
    band.memory = this.#spare.pop() ?? groups.map((count) => this.#arena.take(count * size * width));
    const tensors = band.members.map((tile, i): HostTensor => {
      return { dtype, shape: [tile.groups, size], data: band.memory![i]!.subarray(0, tile.groups * size * width) };
    });
    await loadTiles(
      this.#weight,
      this.#tiling,
      band.members,
      tensors.map((tensor) => elements(tensor) as TileElements),
      this.#scratch,
      { stored: this.#stored },
    );
    return tensors;
  }

  /** Throws ERR_NON_FINITE for a tile with NaN or infinity: for those that a backend found in what nobody had looked at. */
  async refuse(tile: Tile): Promise<void> {
    await loadTiles(this.#weight, this.#tiling, [tile], [new Float32Array(tile.groups * this.#tiling.size)], this.#scratch);
  }
}

/** A group cannot be cut: one that is larger than a whole tile must fit the budget. */
function assertRoom({ size }: Tiling, name: string, budget: number): void {
  if (size <= TILE_WEIGHTS || 4 * size <= budget) return;
  throw new LowbitError('ERR_LIMIT', `${name}: a group of ${size} weights takes ${4 * size} bytes, more than the ${budget} allowed`, {
    hint: 'Choose smaller groups, or allow more memory.',
    details: { tensor: name, groupSize: size, budget },
  });
}
