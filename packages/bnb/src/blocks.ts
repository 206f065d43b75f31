// Blocks of consecutive weights: the largest magnitude of each, and the 4-bit codes of the weights in units of it. The inner loops of NF4 and FP4.

import type { WeightError } from '@lowbit/core';
import { BUCKETS, type CellFinder } from './cells.ts';

/** Smaller magnitudes than this, as a float32, count as this where one is divided by them (bitsandbytes' clamp). */
export const LEAST_ABSMAX: number = Math.fround(1e-38);

/** How the last block is treated if it is short: bitsandbytes 0.50 on the CPU divides by a clamped magnitude there; CUDA does as in full blocks. */
export type ShortBlock = 'divide' | 'multiply';

/** The largest magnitude of values[from, to), NaN if one is NaN. */
function largestMagnitude(values: Float32Array, from: number, to: number): number {
  let largest = 0;
  let i = from;
  for (; i + 3 < to; i += 4) {
    const a = Math.abs(values[i]!);
    const b = Math.abs(values[i + 1]!);
    const c = Math.abs(values[i + 2]!);
    const d = Math.abs(values[i + 3]!);
    if (!(a <= largest && b <= largest && c <= largest && d <= largest)) largest = Math.max(largest, a, b, c, d);
  }
  for (; i < to; i++) largest = Math.max(largest, Math.abs(values[i]!));
  return largest;
}

/**
 * The largest magnitude of each block of `size` values into `absmax` [ceil(length / size)]. Exact, but that a short last block which is divided has at
 * least 1e-38.
 */
export function blockAbsmax(values: Float32Array, size: number, shortBlock: ShortBlock, absmax: Float32Array): void {
  for (let block = 0, from = 0; from < values.length; block++, from += size) {
    const largest = largestMagnitude(values, from, Math.min(from + size, values.length));
    const least = shortBlock === 'divide' && from + size > values.length ? LEAST_ABSMAX : 0;
    absmax[block] = Number.isNaN(largest) ? Number.NaN : Math.max(largest, least); // NaN has a sign in memory: that of the constant, always
  }
}

/** The error as it is summed. */
export type ErrorSums = { -readonly [K in keyof WeightError]-?: number };

export const noError = (): ErrorSums => ({ squaredError: 0, squaredWeight: 0, maxAbs: 0, nonFinite: 0 });

/** The error as it is reported. */
export function weightError({ nonFinite, ...sums }: ErrorSums): WeightError {
  return nonFinite === 0 ? sums : { ...sums, nonFinite };
}

/** A run of whole blocks, the last of which may be short. */
export interface BlockRun {
  readonly values: Float32Array;
  /** Even. */
  readonly size: number;
  readonly shortBlock: ShortBlock;
  /** The magnitude that weights are divided by, one per block. */
  readonly absmax: Float32Array;
  /** The magnitude that a reader multiplies by: the same, or what double quantization made of it. */
  readonly scale: Float32Array;
}

/**
 * Codes of a run, two a byte, the first in the high nibble, into `packed` [ceil(length / 2)]; a nibble left over holds the code of 0. The error of what a
 * reader will find goes to `errors` [3, blocks]: squared errors, squared weights and the largest error of each block, 0 where the scale is NaN or infinite.
 */
export function packBlocks(
  { values, size, shortBlock, absmax, scale }: BlockRun,
  finder: CellFinder,
  packed: Uint8Array,
  errors: Float64Array,
): void {
  const { first, cuts, codes, values: cellValues } = finder;
  const buckets = BUCKETS; // a module's variable would be loaded for every weight
  const length = values.length;
  const blocks = scale.length;
  for (let block = 0, from = 0; from < length; block++, from += size) {
    const to = Math.min(from + size, length);
    const largest = absmax[block]!;
    const divide = shortBlock === 'divide' && to - from < size;
    const factor = divide ? largest : Math.fround(1 / Math.max(largest, LEAST_ABSMAX));
    const s = scale[block]!;
    let squaredError = 0;
    let squaredWeight = 0;
    let maxAbs = 0;
    if (!Number.isFinite(s)) {
      packNonFinite(values, from, to, { factor, divide }, finder, packed);
      errors[block] = errors[blocks + block] = errors[2 * blocks + block] = 0;
      continue;
    }
    for (let i = from; i < to; i += 2) {
      const odd = i + 1 === length;
      const x = values[i]!;
      const y = odd ? 0 : values[i + 1]!;
      const u = divide ? Math.fround(x / factor) : Math.fround(x * factor);
      const v = divide ? Math.fround(y / factor) : Math.fround(y * factor);
      let p = first[(u * buckets + buckets) | 0]!;
      let q = first[(v * buckets + buckets) | 0]!;
      p += u > cuts[p]! ? 1 : 0;
      q += v > cuts[q]! ? 1 : 0;
      packed[i >> 1] = (codes[p]! << 4) | codes[q]!;
      const e = Math.abs(x - Math.fround(cellValues[p]! * s));
      const f = odd ? 0 : Math.abs(y - Math.fround(cellValues[q]! * s));
      squaredError += e * e + f * f;
      squaredWeight += x * x + y * y;
      maxAbs = Math.max(maxAbs, e, f);
    }
    errors[block] = squaredError;
    errors[blocks + block] = squaredWeight;
    errors[2 * blocks + block] = maxAbs;
  }
}

/** Adds the errors of blocks, in their order, to a total; the weights of blocks whose scale is not finite are counted there. */
export function addErrors(total: ErrorSums, { scale, errors, size, count }: CodedErrors): void {
  const blocks = scale.length;
  let { squaredError, squaredWeight, maxAbs } = total;
  for (let block = 0; block < blocks; block++) {
    if (!Number.isFinite(scale[block]!)) total.nonFinite += Math.min(size, count - block * size);
    squaredError += errors[block]!;
    squaredWeight += errors[blocks + block]!;
    maxAbs = Math.max(maxAbs, errors[2 * blocks + block]!);
  }
  Object.assign(total, { squaredError, squaredWeight, maxAbs });
}

/** Errors of a run of blocks, the last of which may be short. */
export interface CodedErrors {
  /** One per block, as is stored. */
  readonly scale: Float32Array;
  /** [3, blocks], as `packBlocks` gives them. */
  readonly errors: Float64Array;
  readonly size: number;
  /** Weights. */
  readonly count: number;
}

/** Codes of one block that no reader can restore. What scales to NaN is sorted behind all numbers, as in PyTorch. */
function packNonFinite(
  values: Float32Array,
  from: number,
  to: number,
  { factor, divide }: { readonly factor: number; readonly divide: boolean },
  { cuts, codes }: CellFinder,
  packed: Uint8Array,
): void {
  const codeOf = (scaled: number): number => codes[Number.isNaN(scaled) ? codes.length - 1 : cuts.filter((cut) => cut < scaled).length]!;
  const code = (value: number): number => codeOf(Math.fround(divide ? value / factor : value * factor));
  for (let i = from; i < to; i += 2) packed[i >> 1] = (code(values[i]!) << 4) | (i + 1 < values.length ? code(values[i + 1]!) : codeOf(0));
}
