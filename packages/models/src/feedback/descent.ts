// Going back over a weight that feedback has rounded. Channels were rounded in order, each knowing the errors before it and none after; now every grid and every code
// is moved, one after another, to what is best beside all others as they are. What a row costs, e^T M e with e = original less stored, never grows by it.
//
// M is the matrix that was factored, in units in which the moments between channels are as they were given: M = H + diag(own - diag(H)). All numbers are f32, every
// product and sum rounded, in the order of channels; sums over a group are float64.

import { breather, roundTo } from '@lowbit/core';
import { errorOf, nearestLevel } from './grid.ts';

/** What is gone over, some rows of it: changed in place. */
export interface Rounded {
  /** u8 [rows, channels]. */
  readonly codes: Uint8Array;
  /** f32 [rows, groups]; `zero` likewise: a code q stands for (q - zero) * scale. */
  readonly scale: Float32Array;
  readonly zero: Float32Array;
}

/** M: f32 [channels, channels] moments H, whose diagonal is replaced by `own`, f32 [channels]. */
export interface Costs {
  readonly moments: Float32Array;
  readonly own: Float32Array;
}

export interface DescentOptions {
  /** Channels of a group. */
  readonly size: number;
  readonly levels: number;
  /** How often, at most: a row that stayed as it was is done. */
  readonly sweeps: number;
  /** What scales and zeros are stored as. */
  readonly scaleDtype: StoredFloat;
  readonly zeroDtype: StoredFloat;
}

export type StoredFloat = 'f32' | 'f16' | 'bf16';

const fround = Math.fround;

/** Below it, as a share of what it is the difference of, a determinant says that two columns are one. */
const SAME = 1e-9;

/**
 * Moves codes, scales and zeros of f32 [rows, channels] weights.
 * @returns the errors that are left, original less stored, f32 [rows, channels]
 */
export async function descend(
  weights: Float32Array,
  { moments, own }: Costs,
  rounded: Rounded,
  options: DescentOptions,
  signal?: AbortSignal,
): Promise<Float32Array<ArrayBuffer>> {
  const breathe = breather();
  const turn = async (): Promise<void> => {
    await breathe();
    signal?.throwIfAborted();
  };
  const channels = own.length;
  const errors = new Float32Array(weights.length);
  const extra = own.map((value, i) => value - moments[i * (channels + 1)]!);
  const sums = groupSums(moments, extra, options.size);
  for (let first = 0; first < weights.length; first += channels) {
    const row = new Row(weights.subarray(first, first + channels), moments, extra, own, rounded, first, options);
    for (let sweep = 0; sweep < options.sweeps; sweep++) if (!(await row.sweep(sums, turn))) break;
    errors.set(row.errors, first);
  }
  return errors;
}

/** Of every channel the moments with all of its group, f64 [channels]. */
function groupSums(moments: Float32Array, extra: Float32Array, size: number): Float64Array {
  const channels = extra.length;
  const sums = new Float64Array(channels);
  for (let i = 0; i < channels; i++) {
    const first = i - (i % size);
    for (let j = first; j < first + size; j++) sums[i]! += moments[j * channels + i]!;
    sums[i]! += extra[i]!;
  }
  return sums;
}

class Row {
  readonly errors: Float32Array;
  /** M e: half of what the cost falls by where a stored number grows. */
  readonly #pull: Float32Array;
  readonly #weights: Float32Array;
  readonly #moments: Float32Array;
  readonly #extra: Float32Array;
  readonly #own: Float32Array;
  readonly #rounded: Rounded;
  /** Of the row, among codes. */
  readonly #first: number;
  readonly #options: DescentOptions;

  constructor(
    weights: Float32Array,
    moments: Float32Array,
    extra: Float32Array,
    own: Float32Array,
    rounded: Rounded,
    first: number,
    options: DescentOptions,
  ) {
    this.#weights = weights;
    this.#moments = moments;
    this.#extra = extra;
    this.#own = own;
    this.#rounded = rounded;
    this.#first = first;
    this.#options = options;
    const channels = weights.length;
    this.errors = weights.map((_, i) => this.#errorOf(i));
    this.#pull = new Float32Array(channels);
    for (let j = 0; j < channels; j++) this.#addMoments(j, this.errors[j]!);
    for (let i = 0; i < channels; i++) this.#pull[i]! += fround(this.errors[i]! * extra[i]!);
  }

  /** Whether anything changed. */
  async sweep(sums: Float64Array, turn: () => Promise<void>): Promise<boolean> {
    const { size } = this.#options;
    let changed = false;
    for (let from = 0; from < this.#weights.length; from += size) {
      await turn();
      if (this.#moveGrid(from, sums)) changed = true;
      if (this.#moveCodes(from)) changed = true;
    }
    return changed;
  }

  /** Scale and zero of a group where they are best, if that costs less as they are stored. */
  #moveGrid(from: number, sums: Float64Array): boolean {
    const { size, scaleDtype, zeroDtype } = this.#options;
    const { codes, scale, zero } = this.#rounded;
    const group = (this.#first + from) / size;
    const channels = this.#weights.length;
    const s = scale[group]!;
    const z = zero[group]!;
    // A stored number is scale * q + shift. What moving them costs: forms of q and of ones, and how the row pulls at either.
    let [qq, q1, oo, pq, p1] = [0, 0, 0, 0, 0];
    const products = new Float64Array(size); // of each channel, those of all codes of the group, in their order
    for (let j = from; j < from + size; j++) {
      const q = codes[this.#first + j]!;
      for (let i = 0, at = j * channels + from; i < size; i++, at++) products[i]! += q * this.#moments[at]!;
    }
    for (let i = from; i < from + size; i++) {
      const q = codes[this.#first + i]!;
      qq += q * (products[i - from]! + q * this.#extra[i]!);
      q1 += q * sums[i]!;
      oo += sums[i]!;
      pq += q * this.#pull[i]!;
      p1 += this.#pull[i]!;
    }
    const both = qq * oo;
    const determinant = both - q1 * q1;
    if (!(determinant > SAME * both)) return false;
    const scaleMove = (pq * oo - p1 * q1) / determinant;
    const shiftMove = (p1 * qq - pq * q1) / determinant;
    const newScale = roundTo(scaleDtype, s + scaleMove);
    const newZero = roundTo(zeroDtype, (s * z - shiftMove) / newScale);
    if (!(newScale > 0 && newScale < Number.POSITIVE_INFINITY && Number.isFinite(newZero))) return false;
    const a = newScale - s;
    const b = s * z - newScale * newZero;
    const cost = a * a * qq + 2 * a * b * q1 + b * b * oo - 2 * (a * pq + b * p1);
    if (!(cost < 0)) return false;
    scale[group] = newScale;
    zero[group] = newZero;
    for (let i = from; i < from + size; i++) this.#setError(i);
    return true;
  }

  /** Every code of a group to the level that is best beside all others. */
  #moveCodes(from: number): boolean {
    const { size, levels } = this.#options;
    const { codes, scale, zero } = this.#rounded;
    const group = (this.#first + from) / size;
    const top = levels - 1;
    const inverse = 1 / scale[group]!;
    const z = zero[group]!;
    let changed = false;
    for (let i = from; i < from + size; i++) {
      const best = this.#weights[i]! - this.errors[i]! + this.#pull[i]! / this.#own[i]!;
      if (!Number.isFinite(best)) continue;
      const q = nearestLevel(best, inverse, z, top);
      if (q === codes[this.#first + i]) continue;
      codes[this.#first + i] = q;
      this.#setError(i);
      changed = true;
    }
    return changed;
  }

  #errorOf(i: number): number {
    const { codes, scale, zero } = this.#rounded;
    const at = this.#first + i;
    const group = (at - (at % this.#options.size)) / this.#options.size;
    return errorOf(this.#weights[i]!, codes[at]!, scale[group]!, zero[group]!);
  }

  #setError(i: number): void {
    const error = this.#errorOf(i);
    const more = fround(error - this.errors[i]!);
    this.errors[i] = error;
    this.#addMoments(i, more);
    this.#pull[i]! += fround(more * this.#extra[i]!);
  }

  #addMoments(j: number, error: number): void {
    const channels = this.#weights.length;
    const pull = this.#pull;
    for (let i = 0, at = j * channels; i < channels; i++, at++) pull[i]! += fround(error * this.#moments[at]!);
  }
}
