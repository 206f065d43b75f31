// Least squares: scale and zero of every group fitted together. HQQ's solver moves the zero alone, since its shrinkage never acts on weights as
// small as those of language models; refitting the scale too takes 12 % (4 bits) to 45 % (2 bits) off the squared error, in the same format.
//
// For a group of weights g with importance w, alternate
//
//   q = clamp(round((g - b) / s), 0, levels - 1)        s, b = the weighted least-squares fit of g on q: s = cov(q, g) / var(q), b = mean(g) - s mean(q)
//
// from min-max ranges shrunk around their middle. Each start ends in a local minimum; of those the one with the smallest weighted error *as stored*
// is kept: scale and zero are rounded to the storage dtype first, codes are the nearest to what is stored. Groups do not depend on one another, so a
// weight is solved and written in one pass.

import { roundTo } from '@lowbit/core';
import { type GroupBlock, ROUND } from '../grid.ts';
import { channelWeights, type GroupWeights, tileWeights } from '../importance.ts';
import type { GroupSolver, StorageDtype } from '../solver.ts';
import type { SolverSettings } from '../solver-options.ts';

const fround = Math.fround;
const round = ROUND; // a local: this is the hot loop, and some module loaders make every use of an import a property access
const narrow = roundTo;

/** What the starts make of the min-max range. */
const STARTS = [1, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7];

/** How grids are fitted, and to what they are rounded. */
export interface Fit {
  readonly levels: number;
  /** Most fits from each start. */
  readonly alternations: number;
  readonly dtype: { readonly scale: StorageDtype; readonly zero: StorageDtype };
}

export function leastSquares({ alternations }: Extract<SolverSettings, { name: 'least-squares' }>): GroupSolver {
  return {
    kind: 'groups',
    begin({ levels, tiling }, { shape, importance, dtype }) {
      const channels = importance && channelWeights(importance, shape);
      return (block, tile) => {
        const scale = new Float32Array(block.groups);
        const zero = new Float32Array(block.groups);
        fitBlock(block, { levels, alternations, dtype }, scale, zero, channels && tileWeights(channels, tiling, tile));
        return { codes: 'stored', scale, zero };
      };
    },
  };
}

/** Buffers for groups of one size, used again for every group. */
interface Scratch {
  /** Weights of the group. */
  readonly g: Float64Array;
  /** Importance of each, and its product with the weight. */
  readonly w: Float64Array;
  readonly wg: Float64Array;
  /** Sums of w, wg; of wq, wqq, wgq. */
  readonly sums: Float64Array;
}

function fitScratch(size: number): Scratch {
  return { g: new Float64Array(size), w: new Float64Array(size).fill(1), wg: new Float64Array(size), sums: new Float64Array(3) };
}

/** Sums over the codes that a grid gives: w q, w q^2, w g q. */
function codeSums({ g, w, wg, sums }: Scratch, top: number, s: number, b: number): void {
  const inverse = 1 / s;
  const z = -b * inverse;
  let first = 0;
  let second = 0;
  let mixed = 0;
  for (let i = 0; i < g.length; i++) {
    let q = g[i]! * inverse + z;
    q = q < 0 ? 0 : q > top ? top : q + round - round;
    const weighted = w[i]! * q;
    first += weighted;
    second += weighted * q;
    mixed += wg[i]! * q;
  }
  sums[0] = first;
  sums[1] = second;
  sums[2] = mixed;
}

/** Weighted squared error of the group under a grid as stored. */
function storedError({ g, w }: Scratch, top: number, scale: number, zero: number): number {
  const inverse = 1 / scale;
  let error = 0;
  for (let i = 0; i < g.length; i++) {
    const value = g[i]!;
    let q = value * inverse + zero;
    q = q < 0 ? 0 : q > top ? top : q + round - round;
    const difference = value - fround(fround(q - zero) * scale);
    error += w[i]! * difference * difference;
  }
  return error;
}

/**
 * Fits the grids of a block of groups.
 * @param scale f32 [groups], written: numbers of the storage dtype
 * @param zero f32 [groups], written: numbers of the storage dtype
 */
export function fitBlock(block: GroupBlock, fit: Fit, scale: Float32Array, zero: Float32Array, importance?: GroupWeights): void {
  const scratch = fitScratch(block.size);
  for (let index = 0; index < block.groups; index++) {
    const at = index * block.size;
    for (let i = 0; i < block.size; i++) scratch.g[i] = block.weights[at + i]!;
    importance?.(index, scratch.w);
    fitGroup(scratch, fit, scale, zero, index);
  }
}

function fitGroup(scratch: Scratch, { levels, alternations, dtype }: Fit, scale: Float32Array, zero: Float32Array, index: number): void {
  const { g, w, wg, sums } = scratch;
  const top = levels - 1;
  let lo = g[0]!;
  let hi = lo;
  let total = 0;
  let totalG = 0;
  for (let i = 0; i < g.length; i++) {
    const value = g[i]!;
    const product = w[i]! * value;
    wg[i] = product;
    total += w[i]!;
    totalG += product;
    if (value < lo) lo = value;
    if (value > hi) hi = value;
  }
  const mean = totalG / total;
  // One value for all is what every storage dtype can do, however small the range; for a constant group it is exact.
  let bestScale = narrow(dtype.scale, Math.abs(mean));
  let bestZero = mean < 0 ? 1 : -1;
  if (bestScale === 0) [bestScale, bestZero] = [1, 0];
  let best = storedError(scratch, top, bestScale, bestZero);

  const middle = (lo + hi) / 2;
  for (let start = 0; hi > lo && start < STARTS.length; start++) {
    const half = ((hi - lo) / 2) * STARTS[start]!;
    let s = (2 * half) / top;
    let b = middle - half;
    let [first, second, mixed] = [-1, -1, 0];
    for (let step = 0; step < alternations; step++) {
      codeSums(scratch, top, s, b);
      if (sums[0] === first && sums[1] === second && sums[2] === mixed) break; // the same codes as before: nothing will change
      first = sums[0]!;
      second = sums[1]!;
      mixed = sums[2]!;
      const spread = second - (first * first) / total;
      if (!(spread > 1e-12 * second)) break; // all on one code
      s = (mixed - (first * totalG) / total) / spread;
      b = (totalG - s * first) / total;
    }
    const storedScale = narrow(dtype.scale, s);
    // The best zero for the rounded scale, which is not exactly -b / s.
    const storedZero = narrow(dtype.zero, (first - totalG / storedScale) / total);
    if (storedScale === bestScale && storedZero === bestZero) continue;
    const error = storedError(scratch, top, storedScale, storedZero);
    if (error < best) {
      best = error;
      bestScale = storedScale;
      bestZero = storedZero;
    }
  }
  scale[index] = bestScale;
  zero[index] = bestZero;
}
