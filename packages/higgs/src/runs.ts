// How a weight is cut: into bands of rows that are packed at once, and these into runs of blocks that are coded at once. Both follow from format and shape
// alone, never from the memory or the threads: sums taken run by run are then the same, and so are the bytes.

import { type Codebook, isTilePacking, LowbitError, type Matrix, packing, storedColumns, type TilePacking } from '@lowbit/core';

/** Weights of a run, about: 1 MiB as float32. */
export const RUN_WEIGHTS: number = 2 ** 18;

/** Rows [from, to) of the weight: whole tiles of the packing. */
export interface Band {
  readonly from: number;
  readonly to: number;
}

/** Blocks [first, first + blocks), counted row by row, all in one band. */
export interface Run {
  readonly band: number;
  readonly first: number;
  readonly blocks: number;
  /** Flat elements [from, to) of the weight that they hold. */
  readonly from: number;
  readonly to: number;
}

export interface Cutting {
  readonly packing: TilePacking;
  readonly block: number;
  /** Codes of a row. */
  readonly columns: number;
  readonly bands: readonly Band[];
  readonly runs: readonly Run[];
}

/** Throws ERR_UNSUPPORTED_FORMAT for a packing that cannot be written tile by tile. */
export function cutting(format: Codebook, shape: Matrix): Cutting {
  const pack = packing(format.packing);
  if (!isTilePacking(pack) || !format.rotate) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `higgs: cannot write the packing ${format.packing}`, {
      hint: 'Use the format that the quantizer itself returned.',
      details: { packing: format.packing },
    });
  }
  const [out, inp] = shape;
  const { block } = format.rotate;
  const width = storedColumns(format, shape);
  const perRow = width / block;
  const rows = pack.tileRows * Math.max(1, Math.floor(RUN_WEIGHTS / (width * pack.tileRows)));
  const most = Math.max(1, Math.floor(RUN_WEIGHTS / block));
  // Where a flat run of blocks begins in the weight.
  const start = (index: number): number => Math.floor(index / perRow) * inp + (index % perRow) * block;
  const bands: Band[] = [];
  const runs: Run[] = [];
  for (let from = 0; from < out; from += rows) {
    const to = Math.min(from + rows, out);
    for (let first = from * perRow; first < to * perRow; first += most) {
      const blocks = Math.min(most, to * perRow - first);
      runs.push({ band: bands.length, first, blocks, from: start(first), to: start(first + blocks) });
    }
    bands.push({ from, to });
  }
  return { packing: pack, block, columns: width / format.dim, bands, runs };
}

/** Bytes that work on a band takes: its codes, and those packed. */
export function bandBytes({ bands, columns, packing: pack }: Cutting): number {
  const rows = bands[0]!.to - bands[0]!.from;
  return rows * columns + Math.ceil((rows * columns * pack.bits) / 8);
}
