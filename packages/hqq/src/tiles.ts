// Cutting a weight into tiles that are solved one at a time, so that a matrix of any size goes through a small, fixed memory.
//
// A tile is a rectangle of the packed matrix: a run of its word rows (axis 1) or of its columns (axis 0), with every group it touches. Published
// packings put rows that lie far apart into one word, so on axis 1 a tile holds one run of groups per lane. Tiles follow from format and shape
// alone, never from the budget: sums taken tile by tile are then the same whatever the memory, and so are the bytes.

import {
  type Affine,
  DTYPE_BYTES,
  grouping,
  isLanePacking,
  type LanePacking,
  LowbitError,
  type Matrix,
  packing,
  packLanes,
} from '@lowbit/core';

/** Weights in a tile, about: 1 MiB as float32, small enough for the caches of a core and for several tiles in one layer of a small model. */
export const TILE_WEIGHTS = 1 << 18;

/** The grouped matrix of a weight, packed, and how it is cut. */
export interface Tiling {
  readonly axis: 0 | 1;
  /** Elements of a group. */
  readonly size: number;
  readonly groups: number;
  readonly packing: LanePacking;
  /** Rows and columns of the grouped matrix: [groups, size] on axis 1, [size, groups] on axis 0. */
  readonly rows: number;
  readonly columns: number;
  /** Rows of the packed matrix. */
  readonly wordRows: number;
  readonly tiles: readonly Tile[];
}

/** Word rows [from, to) of the packed matrix on axis 1, columns on axis 0. */
export interface Tile {
  readonly from: number;
  readonly to: number;
  /** Its groups, as runs of consecutive group numbers in the order they are held in memory. */
  readonly runs: readonly { readonly from: number; readonly to: number }[];
  readonly groups: number;
  /** How many groups the tiles before it have: where its groups begin in arrays in tile order. */
  readonly first: number;
}

export function tiling(format: Affine, shape: Matrix): Tiling {
  const { rows, columns, groups, group: size } = grouping(format, shape);
  const pack = packing(format.packing);
  if (!isLanePacking(pack)) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `hqq: cannot write the packing ${format.packing}`, {
      hint: 'Use the format that the quantizer itself returned.',
      details: { packing: format.packing },
    });
  }
  const wordRows = pack.wordRows(rows);
  const extent = format.axis === 1 ? wordRows : columns;
  const most = Math.max(1, Math.floor(TILE_WEIGHTS / (format.axis === 1 ? pack.lanes * size : size)));
  // Whole f32 words, so that files may show codes as floats.
  const step = format.axis === 0 && most > 4 ? most - (most % 4) : most;
  const tiles: Tile[] = [];
  let first = 0;
  for (let from = 0; from < extent; from += step) {
    const to = Math.min(from + step, extent);
    const runs = format.axis === 0 ? [{ from, to }] : laneRuns(pack.lanes, wordRows, rows, from, to);
    const count = runs.reduce((sum, run) => sum + run.to - run.from, 0);
    tiles.push({ from, to, runs, groups: count, first });
    first += count;
  }
  return { axis: format.axis, size, groups, packing: pack, rows, columns, wordRows, tiles };
}

/** The grouped rows that word rows [from, to) are made of, lane by lane; the last lane of a 3-bit packing may run past the end. */
function laneRuns(lanes: number, wordRows: number, rows: number, from: number, to: number): { from: number; to: number }[] {
  return Array.from({ length: lanes }, (_, lane) => ({
    from: Math.min(lane * wordRows + from, rows),
    to: Math.min(lane * wordRows + to, rows),
  }));
}

/** A tile as far as packing its codes needs to know it: plain data, which can go to another thread. */
export interface PackedTile {
  readonly packing: string;
  readonly axis: 0 | 1;
  readonly size: number;
  /** Rows of the packed matrix, of all tiles. */
  readonly wordRows: number;
  /** Word rows (axis 1) or columns (axis 0) that the tile has. */
  readonly extent: number;
  /** Groups of each lane (axis 1). */
  readonly laneGroups: readonly number[];
}

export function packedTile(t: Tiling, tile: Tile): PackedTile {
  const laneGroups = tile.runs.map(({ from, to }) => to - from);
  return { packing: t.packing.name, axis: t.axis, size: t.size, wordRows: t.wordRows, extent: tile.to - tile.from, laneGroups };
}

/** The codes of a tile (groups one after another) packed into its rectangle of the packed matrix, as bytes, row by row. */
export function packTile(codes: Uint8Array, { packing: name, axis, size, wordRows, extent, laneGroups }: PackedTile): Uint8Array {
  const pack = packing(name) as LanePacking;
  const words = new Uint8Array((axis === 1 ? extent * size : wordRows * extent) * DTYPE_BYTES[pack.dtype]);
  if (axis === 1) {
    let at = 0;
    const lanes = laneGroups.map((groups) => {
      const from = at;
      at += groups * size;
      return codes.subarray(from, at);
    });
    packLanes(pack, lanes, words);
    return words;
  }
  // A group is a column: element r of each goes to row r mod wordRows of lane r div wordRows.
  const rows = new Uint8Array(pack.lanes * wordRows * extent);
  transposeInto(codes, extent, size, rows, extent);
  const laneSize = wordRows * extent;
  packLanes(
    pack,
    Array.from({ length: pack.lanes }, (_, lane) => rows.subarray(lane * laneSize, (lane + 1) * laneSize)),
    words,
  );
  return words;
}

/** Side of the squares that `transposeInto` moves: what it reads and writes at a time stays in the first cache. */
const SQUARE = 32;

/** Puts a matrix [rows, columns] into `into` as [columns, rows], whose rows are `pitch` elements apart; `at` is where the first of them begins. */
export function transposeInto<T extends Uint8Array | Uint16Array | Float32Array>(
  matrix: T,
  rows: number,
  columns: number,
  into: T,
  pitch: number,
  at = 0,
  rowPitch = columns,
): void {
  for (let r0 = 0; r0 < rows; r0 += SQUARE) {
    const r1 = Math.min(r0 + SQUARE, rows);
    for (let c = 0; c < columns; c++) {
      const to = at + c * pitch;
      for (let r = r0, from = r0 * rowPitch + c; r < r1; r++, from += rowPitch) into[to + r] = matrix[from]!;
    }
  }
}
