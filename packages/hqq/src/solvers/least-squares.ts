// Least squares: scale and zero of every group fitted together. HQQ's solver moves the zero alone, since its shrinkage never acts on weights as
// small as those of language models; refitting the scale too takes 12 % (4 bits) to 44 % (2 bits) off the squared error, in the same format.
//
// For a group of weights v with importance w, alternate
//
//   q = clamp(round((v - b) / s), 0, levels - 1)        s, b = the weighted least-squares fit of v on q: s = cov(q, v) / var(q), b = mean(v) - s mean(q)
//
// from min-max ranges shrunk around their middle, with few levels by each end apart. Each start ends in a local minimum; of those the one with the smallest weighted error *as stored*
// is kept: scale and zero are rounded to the storage dtype first, and codes are the nearest to what is stored. Groups do not depend on one another, so
// a weight is solved and written in one pass.

import { channelWeights, hostTensor, roundTo, toFloat32 } from '@lowbit/core';
import type { GroupBlock } from '../grid.ts';
import { type GroupWeights, weighedTile } from '../importance.ts';
import type { GroupSolver, StorageDtype } from '../solver.ts';
import type { SolverSettings } from '../solver-options.ts';
import { GroupSums } from './code-sums.ts';

const narrow = roundTo; // a local: see code-sums.ts

/** Grids to start from: the min-max range, and six shrunk by more and more. */
const STARTS = 7;
/** Up to so many levels the best grid often leaves out much of one end and nothing of the other: the ends are taken in apart, to every pair of four places each. */
const FEW_LEVELS = 4;
const ENDS = 4;
/** By how much of the range, from one place to the next. */
const TAKEN_IN = 0.15;

/** By how much of the range each start is smaller than the one before: a twentieth, or less than a step with many levels, where more clipping never pays. */
function shrinkage(levels: number): number {
  return Math.min(0.05, 0.8 / levels);
}

/** How grids are fitted, and to what they are rounded. */
export type Fit = {
  readonly levels: number;
  /** Most fits from each start. */
  readonly alternations: number;
  readonly dtype: { readonly scale: StorageDtype; readonly zero: StorageDtype };
};

export function leastSquares({ alternations }: Extract<SolverSettings, { name: 'least-squares' }>): GroupSolver {
  return {
    kind: 'groups',
    begin(layer, { shape, importance, dtype }) {
      const { levels, tiling } = layer;
      const fit: Fit = { levels, alternations, dtype };
      const weighted = importance && channelWeights(importance, shape);
      const channels = weighted && [hostTensor('f64', [weighted.length], weighted)];
      return async (weights, tile) => {
        const params = channels ? { ...fit, tile: weighedTile(tiling, tile) } : fit;
        const outputs = await layer.call('hqq.least-squares', tile, [weights, ...(channels ?? [])], params, tile.groups * tiling.size);
        const [scale, zero] = outputs.map(toFloat32) as [Float32Array, Float32Array];
        if (layer.backed('hqq.least-squares') && scale.some(Number.isNaN)) await layer.store.refuse(tile);
        return { codes: 'stored', scale, zero };
      };
    },
  };
}

/**
 * Fits the grids of a block of groups.
 * @param scale f32 [groups], written: numbers of the storage dtype, or one beyond it where no grid fits it
 * @param zero f32 [groups], written: numbers of the storage dtype
 */
export function fitBlock(block: GroupBlock, fit: Fit, scale: Float32Array, zero: Float32Array, importance?: GroupWeights): void {
  const { weights, groups, size } = block;
  const sums = new GroupSums(size, fit.levels);
  for (let group = 0, at = 0; group < groups; group++, at += size) {
    let lo = weights[at]!;
    let hi = lo;
    for (let i = at + 1; i < at + size; i++) {
      const value = weights[i]!;
      if (value < lo) lo = value;
      if (value > hi) hi = value;
    }
    // Around the middle of the range, so that sums of squares lose nothing to a common offset.
    const middle = (lo + hi) / 2;
    for (let i = 0; i < size; i++) sums.values[i] = weights[at + i]! - middle;
    sums.roundValues((hi - lo) / 2);
    if (importance) {
      importance(group, sums.weights);
      sums.roundWeights();
    } else if (group === 0) sums.weights.fill(1);
    fitGroup(sums, fit, middle, (hi - lo) / 2, scale, zero, group);
  }
}

/** The grid of the group in `sums`, whose values are those of the weight less `middle`. */
function fitGroup(
  sums: GroupSums,
  { levels, alternations, dtype }: Fit,
  middle: number,
  halfRange: number,
  scale: Float32Array,
  zero: Float32Array,
  group: number,
): void {
  const { values, weights } = sums;
  let total = 0;
  let totalV = 0;
  let squares = 0;
  for (let i = 0; i < values.length; i++) {
    const weighted = weights[i]! * values[i]!;
    total += weights[i]!;
    totalV += weighted;
    squares += weighted * values[i]!;
  }
  const mean = totalV / total;

  // One value for all is what every storage dtype can do, however small the range; for a constant group it is exact.
  let bestScale = narrow(dtype.scale, Math.abs(middle + mean));
  let bestZero = middle + mean < 0 ? 1 : -1;
  if (bestScale === 0) {
    bestScale = 1;
    bestZero = 0;
  }
  const one = -bestZero * bestScale - middle;
  let best = Number.isFinite(one) ? squares - 2 * one * totalV + one * one * total : Number.POSITIVE_INFINITY;

  let fitted = false;
  let tooWide = 0;
  const shrink = shrinkage(levels);
  const few = levels <= FEW_LEVELS;
  if (halfRange > 0) sums.prepare();
  for (let start = 0; halfRange > 0 && start < (few ? ENDS * ENDS : STARTS); start++) {
    const lo = few ? halfRange * (1 - 2 * TAKEN_IN * Math.floor(start / ENDS)) : halfRange * (1 - start * shrink);
    const hi = few ? halfRange * (1 - 2 * TAKEN_IN * (start % ENDS)) : lo;
    let s = (lo + hi) / (levels - 1);
    let b = -lo;
    let first = -1;
    let second = -1;
    let mixed = 0;
    for (let step = 0; step < alternations; step++) {
      sums.at(s, b);
      if (sums.first === first && sums.second === second && sums.mixed === mixed) break; // the same codes as before: nothing will change
      first = sums.first;
      second = sums.second;
      mixed = sums.mixed;
      const spread = second - (first * first) / total;
      if (!(spread > 1e-12 * second)) break; // all on one code
      s = (mixed - first * mean) / spread;
      if (!(s > 0)) break;
      b = mean - (s * first) / total;
    }
    const storedScale = narrow(dtype.scale, s);
    if (storedScale === Number.POSITIVE_INFINITY) {
      tooWide = s;
      continue;
    }
    fitted = true;
    // The best zero for the rounded scale, which is not exactly -b / s.
    const storedZero = narrow(dtype.zero, first / total - (middle + mean) / storedScale);
    if (storedScale === bestScale && storedZero === bestZero) continue;
    const offset = -storedZero * storedScale - middle;
    if (!(storedScale > 0 && Number.isFinite(offset))) continue; // out of the dtype's range
    sums.at(storedScale, offset);
    const error =
      squares + storedScale * (storedScale * sums.second + 2 * (offset * sums.first - sums.mixed)) + offset * (offset * total - 2 * totalV);
    if (error < best) {
      best = error;
      bestScale = storedScale;
      bestZero = storedZero;
    }
  }
  // A range whose every scale overflows is far from one value for all, which is then no answer: the scale that does not fit is reported by who stores it.
  // (Where zeros overflow, or scales vanish, the range is small beside its middle or beside what the dtype resolves.)
  scale[group] = !fitted && tooWide > 0 ? tooWide : bestScale;
  zero[group] = bestZero;
}
