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
  type WeightReader,
} from '@lowbit/core';

/** Weights in a tile, about: 4 MiB as float32. */
export const TILE_WEIGHTS = 1 << 20;

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
  for (let from = 0; from < extent; from += step) {
    const to = Math.min(from + step, extent);
    const runs = format.axis === 0 ? [{ from, to }] : laneRuns(pack.lanes, wordRows, rows, from, to);
    tiles.push({ from, to, runs, groups: runs.reduce((sum, run) => sum + run.to - run.from, 0) });
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

/** Reads a tile with its groups one after another: f32 [tile.groups * size]. */
export async function loadTile(weight: WeightReader, t: Tiling, tile: Tile, into: Float32Array): Promise<void> {
  if (t.axis === 1) {
    let at = 0;
    for (const run of tile.runs) {
      if (run.to === run.from) continue;
      await weight.read(run.from * t.size, run.to * t.size, into, at);
      at += (run.to - run.from) * t.size;
    }
    return;
  }
  const width = tile.to - tile.from;
  const rows = new Float32Array(width * t.size);
  if (width === t.columns) await weight.read(0, rows.length, rows);
  else for (let r = 0; r < t.size; r++) await weight.read(r * t.columns + tile.from, r * t.columns + tile.to, rows, r * width);
  for (let r = 0; r < t.size; r++) {
    for (let g = 0, from = r * width; g < width; g++) into[g * t.size + r] = rows[from + g]!;
  }
}

/** The codes of a tile (groups one after another) packed into its rectangle of the packed matrix, as bytes, row by row. */
export function packTile(codes: Uint8Array, t: Tiling, tile: Tile): Uint8Array {
  const { lanes } = t.packing;
  const extent = tile.to - tile.from;
  const laneSize = t.axis === 1 ? extent * t.size : t.wordRows * extent;
  const laneCodes = Array.from({ length: lanes }, () => new Uint8Array(laneSize));
  if (t.axis === 1) {
    let at = 0;
    for (const [lane, run] of tile.runs.entries()) {
      const count = (run.to - run.from) * t.size;
      laneCodes[lane]!.set(codes.subarray(at, at + count));
      at += count;
    }
  } else {
    for (let g = 0; g < extent; g++) {
      for (let r = 0; r < t.size; r++) {
        laneCodes[Math.floor(r / t.wordRows)]![(r % t.wordRows) * extent + g] = codes[g * t.size + r]!;
      }
    }
  }
  const words = new Uint8Array(laneSize * DTYPE_BYTES[t.packing.dtype]);
  packLanes(t.packing, laneCodes, words);
  return words;
}
