// The half-quadratic solver of HQQ (Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023), as the Python library's
// default `optimize_weights_proximal` computes it in float32. The scale is fixed; one step moves the zero of every group:
//
//   q  = clamp(round(w s + z))      Wr = (q - z) / s      We = shrink(w - Wr)      z' = mean over the group of q - (w - We) s
//
// and gives the error mean |w - Wr| of the zero it started from. Sums are float64 here; torch's are float32 in an order of its own.
//
// A step depends on nothing but the zero, so a group whose zero a step left alone has settled: every later step would give the same zero and error.
// Most groups settle after a few of the 20 steps, and need not be looked at again.

import { type GroupBlock, ROUND } from '../grid.ts';
import { power } from './power.ts';

const fround = Math.fround;
const round = ROUND; // a local: this is the hot loop, and some module loaders make every use of an import a property access

export type Shrinkage = {
  /** p of the norm. */
  readonly norm: number;
  readonly beta: number;
  /** The largest that beta will become. */
  readonly lastBeta: number;
};

/** Sums of |w - Wr| under the zeros that a step found, and how many groups are left to do. */
export interface StepResult {
  /** Of the groups that have not settled. */
  readonly moving: number;
  /** Of the groups that this step found settled. */
  readonly stopped: number;
  /** Groups that have not settled. */
  readonly left: number;
}

/** |x| up to which shrink(x) is zero: the root of x = x^(p-1) / beta, that is beta^(-1 / (2 - p)), with room for rounding. */
function deadZone(norm: number, beta: number): number {
  return norm === 1 ? 0.99 / beta : 0.99 * power(beta, -1 / (2 - norm));
}

/** sign(x) max(|x| - |x|^(p-1) / beta, 0), every operation rounded to float32. */
function shrink(x: number, p: number, inverseBeta: number): number {
  const magnitude = Math.abs(x);
  if (magnitude === 0) return 0;
  const cut = p === 1 ? inverseBeta : fround(inverseBeta * fround(power(magnitude, p - 1)));
  const rest = fround(magnitude - cut);
  return rest > 0 ? (x < 0 ? -rest : rest) : 0;
}

/**
 * One step over a block of groups: replaces `zero` and marks the groups that have settled; those that had are passed over.
 * @param inverse f32 [groups]
 * @param zero f32 [groups], updated
 * @param settled u8 [groups], updated: 1 where no further step changes anything
 */
export function proximalStep(
  block: GroupBlock,
  levels: number,
  inverse: Float32Array,
  zero: Float32Array,
  shrinkage: Shrinkage,
  settled: Uint8Array,
): StepResult {
  const { weights, groups, size } = block;
  const { norm, beta, lastBeta } = shrinkage;
  const top = levels - 1;
  const quiet = deadZone(norm, beta);
  const quietToTheEnd = deadZone(norm, lastBeta); // a growing beta makes the dead zone smaller
  const tabulate = levels <= size;
  const table = new Float64Array(levels); // (q - z) / s of the group at hand, where that is fewer divisions
  let moving = 0;
  let stopped = 0;
  let left = 0;
  for (let g = 0, at = 0; g < groups; g++, at += size) {
    if (settled[g] !== 0) continue;
    const s = inverse[g]!;
    const z = zero[g]!;
    if (tabulate) for (let q = 0; q <= top; q++) table[q] = fround(fround(q - z) / s);
    let error = 0;
    let zeroSum = 0;
    let largest = 0; // of those that matter: a running maximum of all would be a branch that nobody can predict
    for (let i = at; i < at + size; i++) {
      const w = weights[i]!;
      const scaled = fround(w * s);
      let rounded = fround(scaled + z) + round - round;
      if (rounded < 0) rounded = 0;
      else if (rounded > top) rounded = top;
      const q = rounded | 0; // an index that needs no check for fractions
      const residual = Math.abs(fround(w - (tabulate ? table[q]! : fround(fround(q - z) / s))));
      error += residual;
      if (residual > quietToTheEnd && residual > largest) largest = residual;
      zeroSum += fround(q - scaled);
    }
    zero[g] = largest <= quiet ? zeroSum / size : shrunkZero(block, levels, g, s, z, norm, beta);
    if (zero[g] === z && (largest === 0 || beta === lastBeta)) {
      settled[g] = 1;
      stopped += error;
    } else {
      moving += error;
      left++;
    }
  }
  return { moving, stopped, left };
}

/** The new zero of a group in which the shrinkage acts. */
function shrunkZero({ weights, size }: GroupBlock, levels: number, g: number, s: number, z: number, norm: number, beta: number): number {
  const top = levels - 1;
  const inverseBeta = 1 / beta;
  let sum = 0;
  for (let i = g * size; i < (g + 1) * size; i++) {
    const w = weights[i]!;
    const q = Math.min(Math.max(fround(fround(w * s) + z) + round - round, 0), top);
    const We = shrink(fround(w - fround(fround(q - z) / s)), norm, inverseBeta);
    sum += fround(q - fround(fround(w - We) * s));
  }
  return sum / size;
}
