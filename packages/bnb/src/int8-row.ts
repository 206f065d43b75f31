// The inner loops of LLM.int8: the largest magnitude of a row, its codes, and their error.
//
// A code is by definition rounded three times: the weight to float16, its product with a factor to float32, and that to an integer. `codesByRule` does
// this. `RowCoder` takes weights as fixed-point numbers in units of a code, which needs one multiplication and integer arithmetic. Both agree on every
// weight but those near the middle between two codes, where the first two roundings may matter: these are listed, and done again by the rule.

import type { DType } from '@lowbit/core';
import type { ErrorSums } from './blocks.ts';
import { HALF_ROUNDERS, TO_INTEGER } from './half.ts';

/** 1 / 127 as a reader has it. */
const STEP: number = Math.fround(1 / 127);

/** Bits below the point: the square of half a code, times 4, is below 2^31. */
const FRACTION = 15;
const ONE = 1 << FRACTION;
const HALF = ONE >> 1;
/** Makes every fixed-point number positive, and whole ones of their floor the nearest; 256 codes more are the same 8 bits. */
const BIAS = 256 * ONE + HALF + 0.5;
/** Weights between two visits of the list. */
const SPAN = 4096;
/** Below, the rounding of fixed-point numbers would show in the error. */
export const FEW_WEIGHTS: number = 2 ** 14;

/** The bits of the largest magnitude of words[from, to), which are those of float32 numbers: NaN is above infinity, and that above all others. */
export function largestBits(words: Int32Array, from: number, to: number): number {
  let largest = 0;
  let i = from;
  for (; i + 3 < to; i += 4) {
    const a = words[i]! & 0x7fffffff;
    const b = words[i + 1]! & 0x7fffffff;
    const c = words[i + 2]! & 0x7fffffff;
    const d = words[i + 3]! & 0x7fffffff;
    if (((largest - a) | (largest - b) | (largest - c) | (largest - d)) < 0) largest = Math.max(largest, a, b, c, d);
  }
  for (; i < to; i++) largest = Math.max(largest, words[i]! & 0x7fffffff);
  return largest;
}

/** The bits of float32's infinity. */
export const INFINITY_BITS = 0x7f800000;

/** The float32 number of some bits. */
export function float32Of(bits: number): number {
  return new Float32Array(Int32Array.of(bits).buffer)[0]!;
}

/** The distance between float16 numbers near `value`. */
function halfUnit(value: number): number {
  const [bits] = new Int32Array(Float32Array.of(value).buffer);
  return HALF_ROUNDERS[bits! >>> 23]! / TO_INTEGER;
}

/** Some rows of a weight. */
export interface Rows {
  readonly values: Float32Array;
  /** The same bytes. */
  readonly words: Int32Array;
  readonly codes: Int8Array;
}

/** A row's numbers. */
interface RowScale {
  /** What float16 weights are multiplied by: `127 / absmax` as PyTorch computes it, in two roundings. */
  readonly factor: number;
  /** What a reader multiplies codes by, before its last rounding. Exact in float64, as is a code times it. */
  readonly step: number;
}

function rowScale(largest: number): RowScale {
  return { factor: largest === 0 ? 0 : Math.fround(Math.fround(1 / largest) * 127), step: largest * STEP };
}

/** The code of one weight. */
function codeByRule(weight: number, word: number, factor: number): number {
  const toHalf = HALF_ROUNDERS[word >>> 23]!;
  return Math.fround((weight + toHalf - toHalf) * factor) + TO_INTEGER - TO_INTEGER;
}

/** Codes of weights [from, to) of a row whose largest float16 magnitude is given; adds the error to `total`. */
export function codesByRule({ values, words, codes }: Rows, from: number, to: number, largest: number, total: ErrorSums): void {
  const { factor, step } = rowScale(largest);
  let [squaredError, squaredWeight, maxAbs] = [total.squaredError, total.squaredWeight, total.maxAbs];
  for (let i = from; i < to; i++) {
    const w = values[i]!;
    const code = codeByRule(w, words[i]!, factor);
    codes[i] = code;
    const error = Math.abs(w - Math.fround(code * step));
    squaredError += error * error;
    squaredWeight += w * w;
    if (error > maxAbs) maxAbs = error;
  }
  total.squaredError = squaredError;
  total.squaredWeight = squaredWeight;
  total.maxAbs = maxAbs;
}

/**
 * Codes rows of one weight: the same codes as `codesByRule`, and the same error but for the rounding of fixed-point numbers: at most
 * 1e-5 of it in one row, some millionths over many. `dtype` is the weight's, `count` how many elements it has.
 */
export class RowCoder {
  readonly #few: boolean;
  /** Numbers of 16 bits change below 2^-14 alone when they are rounded to float16. */
  readonly #narrow: boolean;
  readonly #near = new Int32Array(SPAN);

  constructor(dtype: DType, count: number) {
    this.#few = count < FEW_WEIGHTS;
    this.#narrow = dtype === 'f16' || dtype === 'bf16';
  }

  /** Codes of the row [from, to), whose largest float16 magnitude is given; adds the error to `total`. */
  code(rows: Rows, from: number, to: number, largest: number, total: ErrorSums): void {
    // How far rounding moves a weight at most, in codes: half of float16's unit at the largest and at the least, and the roundings of factor, product and
    // fixed-point number. Wide enough that a row has some weights in it: its largest error is looked for there.
    const unit = this.#narrow ? 2 ** -24 : halfUnit(largest);
    const margin = Math.max((127 * unit) / 2 / largest + 2 ** -12, 2 ** -8);
    if (this.#few || !(margin < 0.5)) {
      codesByRule(rows, from, to, largest, total);
      return;
    }
    const whole = to - ((to - from) % 4);
    let listed = 0;
    for (let at = from; at < whole; at += SPAN) listed += this.#span(rows, at, Math.min(at + SPAN, whole), largest, margin, total);
    if (listed === 0) total.maxAbs = Math.max(total.maxAbs, largestError(rows, from, whole, largest));
    codesByRule(rows, whole, to, largest, total);
  }

  /** A multiple of 4 weights. Returns how many were done by the rule. */
  #span({ values, words, codes }: Rows, from: number, to: number, largest: number, margin: number, total: ErrorSums): number {
    const { factor, step } = rowScale(largest);
    const near = this.#near;
    const scale = ONE / step;
    const bound = (0.5 - margin) * ONE;
    const limit = Math.floor(bound * bound); // a power is not the same number on every engine
    const bias = BIAS; // a module's variable would be loaded for every weight
    let listed = 0;
    let squaredError = 0;
    let squaredWeight = 0;
    for (let i = from; i < to; i += 4) {
      const x = values[i]! * scale;
      const y = values[i + 1]! * scale;
      const z = values[i + 2]! * scale;
      const t = values[i + 3]! * scale;
      const p = (x + bias) | 0;
      const q = (y + bias) | 0;
      const r = (z + bias) | 0;
      const s = (t + bias) | 0;
      codes[i] = p >> FRACTION;
      codes[i + 1] = q >> FRACTION;
      codes[i + 2] = r >> FRACTION;
      codes[i + 3] = s >> FRACTION;
      const a = (p & (ONE - 1)) - HALF;
      const b = (q & (ONE - 1)) - HALF;
      const c = (r & (ONE - 1)) - HALF;
      const d = (s & (ONE - 1)) - HALF;
      const aa = Math.imul(a, a);
      const bb = Math.imul(b, b);
      const cc = Math.imul(c, c);
      const dd = Math.imul(d, d);
      // Every weight is put at the end of the list, which then grows by one or not: no branch that could be guessed wrong.
      near[listed] = i;
      listed += (limit - aa) >>> 31;
      near[listed] = i + 1;
      listed += (limit - bb) >>> 31;
      near[listed] = i + 2;
      listed += (limit - cc) >>> 31;
      near[listed] = i + 3;
      listed += (limit - dd) >>> 31;
      squaredError += (aa + bb + cc + dd) | 0;
      squaredWeight += x * x + y * y + (z * z + t * t);
    }
    let maxAbs = total.maxAbs;
    for (let k = 0; k < listed; k++) {
      const i = near[k]!;
      const w = values[i]!;
      const fixed = ((w * scale + bias) | 0) - 256 * ONE - HALF;
      const nearest = (fixed + HALF) >> FRACTION;
      const code = codeByRule(w, words[i]!, factor);
      codes[i] = code;
      const [off, before] = [fixed - code * ONE, fixed - nearest * ONE];
      squaredError += off * off - before * before;
      const error = Math.abs(w - Math.fround(code * step));
      if (error > maxAbs) maxAbs = error;
    }
    const unit = step / ONE;
    total.squaredError += squaredError * unit * unit;
    total.squaredWeight += squaredWeight * unit * unit;
    total.maxAbs = maxAbs;
    return listed;
  }
}

function largestError({ values, codes }: Rows, from: number, to: number, largest: number): number {
  const { step } = rowScale(largest);
  let maxAbs = 0;
  for (let i = from; i < to; i++) maxAbs = Math.max(maxAbs, Math.abs(values[i]! - Math.fround(codes[i]! * step)));
  return maxAbs;
}
