// Reading tiles. A tile on axis 1 is a few long runs of the flat weight. On axis 0 it is a band of columns: a short range of every row. Tiles that
// are too narrow for that are read several at a time, so that ranges stay long whatever the group size.

import { type DType, elements, toF16, type WeightReader } from '@lowbit/core';
import type { TileElements } from './store.ts';
import { type Tile, type Tiling, transposeInto } from './tiles.ts';

/** Columns that one range should cover, at least. */
const RANGE = 4096;
/** Fewer columns than this make a row too short to be read by itself. */
const NARROW = 16;
/** Elements read at a time on axis 0. */
const CHUNK = 1 << 18;

/** How many neighbouring tiles are to be read together; `most` is what there is memory for. */
export function bandTiles({ axis, tiles }: Tiling, most: number): number {
  if (axis === 1) return 1;
  const width = tiles[0]!.to - tiles[0]!.from;
  return Math.max(1, Math.min(Math.ceil(RANGE / width), tiles.length, most));
}

/** Arrays to read through, used again for each tile of a weight: a megabyte that is thrown away each time piles up. */
export class Scratch {
  #values = new Float32Array(0);
  #bits = new Uint16Array(0);

  values(count: number): Float32Array {
    if (this.#values.length < count) this.#values = new Float32Array(count);
    return this.#values.subarray(0, count);
  }

  bits(count: number): Uint16Array {
    if (this.#bits.length < count) this.#bits = new Uint16Array(count);
    return this.#bits.subarray(0, count);
  }
}

/**
 * Fills `into` with neighbouring tiles, each with its groups one after another: [tile.groups * size] f32, or the bits of the 16-bit dtype that the
 * weight has. `stored`: in the dtype of the weight, as it is stored, without a look at NaN and infinity.
 */
export async function loadTiles(
  weight: WeightReader,
  t: Tiling,
  tiles: readonly Tile[],
  into: readonly TileElements[],
  scratch: Scratch,
  { stored = false }: { readonly stored?: boolean } = {},
): Promise<void> {
  if (t.axis === 1) {
    for (const [i, tile] of tiles.entries()) await loadRuns(weight, t, tile, into[i]!, scratch, stored);
    return;
  }
  const from = tiles[0]!.from;
  const width = tiles.at(-1)!.to - from;
  const rows = Math.max(1, Math.min(t.size, Math.floor(CHUNK / width)));
  // Rows too short to be worth a call each lie together in the weight: one grid for all of it has rows of one element.
  const together = width === t.columns && width < NARROW;
  const pitch = together ? width : width + 16; // not a power of two: elements of a column then fall into different sets of the caches
  const bits = into[0] instanceof Uint16Array;
  const values = scratch.values(stored && bits ? 0 : rows * pitch);
  const chunk: TileElements = bits ? scratch.bits(rows * pitch) : values; // what is turned
  for (let r0 = 0; r0 < t.size; r0 += rows) {
    const count = Math.min(rows, t.size - r0);
    const fill = (start: number, length: number, at: number): Promise<void> =>
      stored ? readStored(weight, start, start + length, chunk, at) : weight.read(start, start + length, values, at);
    if (together) await fill(r0 * width, count * width, 0);
    for (let r = 0; !together && r < count; r++) await fill((r0 + r) * t.columns + from, width, r * pitch);
    if (chunk instanceof Uint16Array && !stored) narrow(weight.dtype, values, chunk.subarray(0, count * pitch));
    for (const [i, tile] of tiles.entries()) {
      const columns = chunk.subarray(tile.from - from); // of the tile, in rows `pitch` apart
      transposeInto(columns, count, tile.to - tile.from, into[i]!, t.size, r0, pitch);
    }
  }
}

/** Elements as they are stored, into an array of their kind. */
async function readStored(weight: WeightReader, from: number, to: number, into: TileElements, at: number): Promise<void> {
  into.set(elements({ dtype: weight.dtype, data: await weight.readStored!(from, to) }) as TileElements, at);
}

async function loadRuns(
  weight: WeightReader,
  { size }: Tiling,
  tile: Tile,
  into: TileElements,
  scratch: Scratch,
  stored: boolean,
): Promise<void> {
  const values = into instanceof Float32Array ? into : scratch.values(stored ? 0 : into.length);
  let at = 0;
  for (const run of tile.runs) {
    if (run.to === run.from) continue;
    if (stored) await readStored(weight, run.from * size, run.to * size, into, at);
    else await weight.read(run.from * size, run.to * size, values, at);
    at += (run.to - run.from) * size;
  }
  if (into instanceof Uint16Array && !stored) narrow(weight.dtype, values, into);
}

/** Numbers that were widened from 16 bits, as those bits again. */
function narrow(dtype: DType, values: Float32Array, bits: Uint16Array): Uint16Array {
  const words = new Uint32Array(values.buffer, values.byteOffset, bits.length);
  for (let i = 0; i < bits.length; i++) bits[i] = dtype === 'f16' ? toF16(values[i]!) : words[i]! >>> 16;
  return bits;
}
