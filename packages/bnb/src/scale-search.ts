// Scales of 4-bit blocks by search instead of by the largest magnitude, in the same files.
//
// With the largest magnitude as scale no weight is clipped, and the end of the table is right for one weight of the block. A smaller or larger scale clips a
// little or leaves the end unused, and the other weights come out nearer. From several starts the scale is refitted by least squares on the codes it gives,
// each weight counted by the importance of the channel that it meets, and the one with the least error is kept.

import { BUCKETS, type CellFinder } from './cells.ts';

/** Shares of the largest magnitude to start from. */
const STARTS = [1, 1.1, 0.93, 0.86, 0.8, 0.74] as const;
const REFITS = 6;

/** Cell of a number in units of the scale; beyond the ends of the table it is the last. */
function cellOf(scaled: number, { first, cuts }: CellFinder): number {
  const u = Math.min(1, Math.max(-1, scaled));
  const cell = first[(u * BUCKETS + BUCKETS) | 0]!;
  return u > cuts[cell]! ? cell + 1 : cell;
}

export interface SearchedRun {
  readonly values: Float32Array;
  readonly size: number;
  /** Flat index of the first value in the weight, which has `channels.length` columns. */
  readonly from: number;
  /** Importance of the input channels, mean about 1; undefined: all alike. */
  readonly channels: Float64Array | undefined;
}

/** Scales of the blocks of a run: f32 [ceil(length / size)]. A block of zeros has 0, one that holds NaN has NaN and one that holds infinity Infinity, which whoever packs them refuses. */
export function searchScales({ values, size, from, channels }: SearchedRun, finder: CellFinder): Float32Array {
  const scales = new Float32Array(Math.ceil(values.length / size));
  const weights = new Float64Array(size).fill(1);
  for (let block = 0, at = 0; at < values.length; block++, at += size) {
    const count = Math.min(size, values.length - at);
    if (channels) for (let i = 0; i < count; i++) weights[i] = channels[(from + at + i) % channels.length]!;
    let largest = 0;
    for (let i = 0; i < count; i++) largest = Math.max(largest, Math.abs(values[at + i]!));
    scales[block] = largest > 0 ? bestScale(values.subarray(at, at + count), weights, largest, finder) : largest;
  }
  return scales;
}

function bestScale(values: Float32Array, weights: Float64Array, largest: number, finder: CellFinder): number {
  let best = Math.fround(largest);
  let least = Number.POSITIVE_INFINITY;
  for (const start of STARTS) {
    let scale = Math.fround(start * largest);
    for (let step = 0; step <= REFITS; step++) {
      let mixed = 0;
      let second = 0;
      let error = 0;
      for (let i = 0; i < values.length; i++) {
        const value = values[i]!;
        const point = finder.values[cellOf(value / scale, finder)]!;
        const weight = weights[i]!;
        mixed += weight * value * point;
        second += weight * point * point;
        error += weight * (value - point * scale) ** 2;
      }
      if (error < least) [least, best] = [error, scale];
      const next = Math.fround(mixed / second);
      if (!(next > 0 && next < Number.POSITIVE_INFINITY) || next === scale) break;
      scale = next;
    }
  }
  return best;
}

/** As `packBlocks` for scales of any size: codes are of the nearest value of the table to weight / absmax, errors those of what a reader makes of `scale`. */
export function packClipped(
  {
    values,
    size,
    absmax,
    scale,
  }: { readonly values: Float32Array; readonly size: number; readonly absmax: Float32Array; readonly scale: Float32Array },
  finder: CellFinder,
  packed: Uint8Array,
  errors: Float64Array,
): void {
  const blocks = scale.length;
  for (let i = 0; i < values.length; i++) {
    const block = Math.floor(i / size);
    const value = values[i]!;
    const cell = cellOf(absmax[block]! > 0 ? value / absmax[block]! : 0, finder);
    const code = finder.codes[cell]!;
    packed[i >> 1] = i % 2 === 0 ? code << 4 : packed[i >> 1]! | code;
    const error = Math.abs(value - Math.fround(finder.values[cell]! * scale[block]!));
    errors[block]! += error * error;
    errors[blocks + block]! += value * value;
    errors[2 * blocks + block] = Math.max(errors[2 * blocks + block]!, error);
  }
  if (values.length % 2 === 1) packed[values.length >> 1]! |= finder.codes[cellOf(0, finder)]!;
}
