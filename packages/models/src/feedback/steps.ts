// Rounding a group of channels of some rows, given what the channels before it were off by. All numbers are f32, every product and sum rounded, in the order of channels.

import { errorOf, nearestLevel } from './grid.ts';

const fround = Math.fround;

/** Channels [from, from + size) of a weight with `channels` inputs. */
export type ChannelGroup = { readonly from: number; readonly size: number };

/**
 * What the channels of a group should come to, f32 [rows, size]: their weights and what makes up for the errors of all channels before them.
 * @param weights f32 [rows, channels]
 * @param errors f32 [rows, channels]: original less stored, of the channels before
 * @param coupling f32 [channels, channels] of `factor`
 */
export function targetsOf(
  weights: Float32Array,
  errors: Float32Array,
  coupling: Float32Array,
  rows: number,
  { from, size }: ChannelGroup,
): Float32Array {
  const channels = weights.length / rows;
  const targets = new Float32Array(rows * size);
  const row = new Float32Array(size);
  for (let r = 0; r < rows; r++) {
    const first = r * channels;
    for (let i = 0; i < size; i++) row[i] = weights[first + from + i]!;
    for (let j = 0; j < from; j++) {
      const error = errors[first + j]!;
      for (let i = 0, at = j * channels + from; i < size; i++, at++) row[i]! += fround(error * coupling[at]!);
    }
    targets.set(row, r * size);
  }
  return targets;
}

/**
 * Codes u8 [rows, size] of a group on its grid, each the nearest to its target and to what makes up for the errors of the group's channels before it; and errors f32
 * [rows, size].
 * @param scale f32 [rows]; `zero` likewise: a code q stands for (q - zero) * scale
 */
export function codesOf(
  targets: Float32Array,
  weights: Float32Array,
  scale: Float32Array,
  zero: Float32Array,
  coupling: Float32Array,
  { from, size }: ChannelGroup,
  levels: number,
): { readonly codes: Uint8Array<ArrayBuffer>; readonly errors: Float32Array<ArrayBuffer> } {
  const rows = scale.length;
  const channels = weights.length / rows;
  const top = levels - 1;
  const codes = new Uint8Array(rows * size);
  const errors = new Float32Array(rows * size);
  const row = new Float32Array(size);
  for (let r = 0; r < rows; r++) {
    const s = scale[r]!;
    const z = zero[r]!;
    const inverse = 1 / s;
    row.set(targets.subarray(r * size, (r + 1) * size));
    for (let j = 0; j < size; j++) {
      const q = nearestLevel(row[j]!, inverse, z, top);
      const error = errorOf(weights[r * channels + from + j]!, q, s, z);
      codes[r * size + j] = q;
      errors[r * size + j] = error;
      for (let i = j + 1, at = (from + j) * channels + from + i; i < size; i++, at++) row[i]! += fround(error * coupling[at]!);
    }
  }
  return { codes, errors };
}
