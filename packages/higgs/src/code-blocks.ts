// The work of the method on a run of Hadamard blocks: rotate, find codes, round scales, and say how far the stored numbers are from the weights.
//
// A block is one row's `block` consecutive numbers, those beyond the row's end zero. All of this is float32 in the order written here, but for the
// sum under the root of a norm, which is float64 (Python's is a float32 sum in an order of its own: scales may differ by a unit in the last place), and
// errors, which are float64, summed in each block, and these sums in the order of the blocks.

import { LowbitError, roundTo } from '@lowbit/core';
import { bucketSearch } from './buckets.ts';
import { type Grid, gridOf } from './grid.ts';
import { hadamard } from './hadamard.ts';
import { roundInPlace } from './half.ts';
import { midpointSearch } from './midpoints.ts';
import type { NearestSearch } from './nearest.ts';
import type { ScaleDtype } from './options.ts';

const { fround } = Math;

/** What a run of blocks is, as plain data that can go to another thread. */
export interface BlockRun {
  readonly bits: number;
  readonly p: number;
  readonly block: number;
  readonly group: number;
  readonly dtype: ScaleDtype;
  /** Columns of the weight. */
  readonly inp: number;
  /** Blocks are numbered row by row; the first of the run. */
  readonly first: number;
  readonly blocks: number;
  /** Scales of `scale: 'unbiased'`. */
  readonly unbiased?: boolean;
  /** Of the weight, for messages. */
  readonly name: string;
}

/** Results of a run; the arrays are new. */
export interface CodedRun {
  /** [blocks * block / p]. */
  readonly codes: Uint8Array;
  /** As stored, one per group: [blocks * block / group]. */
  readonly scales: Float32Array;
  /** Sums of squares of errors and weights, largest error: over the columns that the weight has. */
  readonly error: Float64Array;
}

const searches = new Map<string, NearestSearch>();

/** The fast search of a grid, made once a thread. */
function nearestSearch(grid: Grid): NearestSearch {
  const name = `${grid.bits}-${grid.dim}`;
  let search = searches.get(name);
  if (!search) {
    search = grid.dim === 1 ? midpointSearch(grid) : bucketSearch(grid);
    searches.set(name, search);
  }
  return search;
}

/** Grid points as they are stored: rounded to the dtype of the scales. */
export function storedPoints(grid: Grid, dtype: ScaleDtype): Float32Array {
  return grid.points.map((x) => roundTo(dtype, x));
}

/**
 * Codes the blocks of a run. `weights` are the numbers that the weight has in them, row by row, without what rows are filled up with.
 * Throws ERR_DTYPE_OVERFLOW for a block whose scale does not fit.
 */
export function codeBlocks(weights: Float32Array, run: BlockRun, search?: NearestSearch): CodedRun {
  const { block, group, dtype, inp, first, blocks } = run;
  const grid = gridOf(run.bits, run.p);
  const { dim } = grid;
  const find = search ?? nearestSearch(grid);
  const points = storedPoints(grid, dtype);
  const farthest = points.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  const perRow = Math.ceil(inp / block);
  const root = fround(Math.sqrt(block));
  const perBlock = block / group;
  const codes = new Uint8Array((blocks * block) / dim);
  const scales = new Float32Array(blocks * perBlock);
  const values = new Float32Array(block);
  const words = new Uint32Array(values.buffer);
  let squaredError = 0;
  let squaredWeight = 0;
  let maxAbs = 0;
  let from = 0;
  for (let b = 0; b < blocks; b++) {
    const count = Math.min(block, inp - ((first + b) % perRow) * block);
    let squares = 0;
    for (let i = 0; i < count; i++) {
      const w = weights[from + i]!;
      values[i] = w;
      squares += w * w;
    }
    squaredWeight += squares;
    // A block of zeros: codes 0, scale 0, no error.
    if (squares > 0) {
      if (count < block) values.fill(0, count);
      const norm = fround(Math.sqrt(squares));
      let scale = roundTo(dtype, fround(norm / root));
      // Transformed numbers are at most norm * root, restored ones scale * farthest.
      if (!(norm * block < 2 ** 127 && Number.isFinite(roundTo(dtype, scale * farthest)))) throw overflow(run, b, norm / root);
      hadamard(values, 0, block);
      for (let i = 0; i < block; i++) values[i] = values[i]! / norm;
      const at = (b * block) / dim;
      find(values, block / dim, codes, at);
      if (run.unbiased) {
        const longer = roundTo(dtype, (norm / root) * lengthening(values, codes, at, points, dim));
        if (!Number.isFinite(roundTo(dtype, longer * farthest))) throw overflow(run, b, longer);
        scale = longer;
      }
      scales.fill(scale, b * perBlock, (b + 1) * perBlock);
      restore(values, codes, at, points, dim, scale);
      roundInPlace(values, words, dtype);
      hadamard(values, 0, block);
      const inverse = 1 / Math.sqrt(block);
      let ofBlock = 0;
      for (let i = 0; i < count; i++) {
        const error = Math.abs(weights[from + i]! - values[i]! * inverse);
        ofBlock += error * error;
        if (error > maxAbs) maxAbs = error;
      }
      squaredError += ofBlock;
    }
    from += count;
  }
  return { codes, scales, error: Float64Array.of(squaredError, squaredWeight, maxAbs) };
}

/** By how much the points must be longer for their projection onto the values of the block to be as long as these. */
function lengthening(values: Float32Array, codes: Uint8Array, at: number, points: Float32Array, dim: number): number {
  let own = 0;
  let mixed = 0;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    own += value * value;
    mixed += value * points[dim * codes[at + Math.floor(i / dim)]! + (i % dim)]!;
  }
  return mixed > 0 ? own / mixed : 1;
}

/** What a reader makes of codes: rotated weights. */
function restore(values: Float32Array, codes: Uint8Array, at: number, points: Float32Array, dim: number, scale: number): void {
  const count = values.length / dim;
  if (dim === 1) {
    for (let i = 0; i < count; i++) values[i] = points[codes[at + i]!]! * scale;
    return;
  }
  for (let i = 0; i < count; i++) {
    const c = 2 * codes[at + i]!;
    values[2 * i] = points[c]! * scale;
    values[2 * i + 1] = points[c + 1]! * scale;
  }
}

function overflow({ name, dtype, inp, block, first }: BlockRun, b: number, scale: number): LowbitError {
  const perRow = Math.ceil(inp / block);
  const row = Math.floor((first + b) / perRow);
  const column = ((first + b) % perRow) * block;
  return new LowbitError(
    'ERR_DTYPE_OVERFLOW',
    `${name}: the scale ${scale} of row ${row} from column ${column} on is too large for ${dtype}`,
    {
      hint: 'Choose a dtype with a wider range, bf16 or f32, or keep this layer with a rule. Weights beyond 1e30 are likely damaged.',
      details: { tensor: name, row, column, scale, dtype },
    },
  );
}
