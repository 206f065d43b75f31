// LLM.int8 in memory, and its product (Dettmers et al., "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale", 2022), as bitsandbytes
// computes it on a CPU:
//
//   outliers  columns in which some row of x, rounded to f16, has a magnitude of at least the threshold; a threshold of 0 finds none
//   codes     round(x s), s = f32(f32(1 / m) 127), m the largest magnitude of the row outside its outliers; 0 in outlier columns
//   y         codes . q  m  scale[row] / 127^2  +  sum over the outlier columns of x w  +  bias
//
// The rows of one call share their outlier columns, so a row's product depends (within the rounding to 8 bits) on the rows beside it, as in Python.
// Sums are exact (integers) or float64, and rounded to float32 once; bitsandbytes' constant for 1 / 127^2 lacks digits (6.200124e-05), ours is 1 / 16129.

import { INT8_STEP } from '../codecs/int8.ts';
import { elements, roundTo, toFloat32 } from '../dtype.ts';
import type { Int8, QuantizedTensor } from '../spec/format.ts';
import type { Matrix } from '../spec/tensor.ts';
import type { HeldWeight, HoldingPlan } from './weights.ts';

const f = Math.fround;
/** 1.5 * 2^52: adding and subtracting it rounds to an integer, ties to even. */
const ROUND = 6755399441055744;

/** Rows of activations as 8-bit codes. */
export interface Int8Rows {
  /** [rows, in]; 0 in outlier columns. */
  readonly codes: Int8Array;
  /** Largest magnitude of each row outside its outliers, NaN for a row with NaN. */
  readonly scale: Float32Array;
  /** Columns to compute in floating point, ascending. */
  readonly outliers: Uint32Array;
}

/** Quantizes rows of x [rows, inp], taken through f16. */
export function quantizeInt8Rows(x: Float32Array, inp: number, threshold: number): Int8Rows {
  const rows = x.length / inp;
  const codes = new Int8Array(x.length);
  const scale = new Float32Array(rows);
  const isOutlier = new Uint8Array(inp);
  const limit = threshold > 0 ? threshold : Number.POSITIVE_INFINITY;
  const half = new Float32Array(inp);
  for (let row = 0, at = 0; row < rows; row++, at += inp) {
    let largest = 0;
    let nan = false;
    for (let k = 0; k < inp; k++) {
      half[k] = roundTo('f16', x[at + k]!);
      const magnitude = Math.abs(half[k]!);
      if (magnitude >= limit && threshold > 0) {
        isOutlier[k] = 1;
        half[k] = 0;
      } else if (magnitude > largest) largest = magnitude;
      else if (Number.isNaN(magnitude)) nan = true;
    }
    scale[row] = nan ? Number.NaN : largest;
    const s = f(f(1 / largest) * 127);
    if (largest > 0) for (let k = 0; k < inp; k++) codes[at + k] = f(half[k]! * s) + ROUND - ROUND;
  }
  const outliers = Uint32Array.from([...isOutlier.keys()].filter((k) => isOutlier[k] === 1));
  for (const k of outliers) for (let at = k; at < codes.length; at += inp) codes[at] = 0;
  return { codes, scale, outliers };
}

/** The plan for an LLM.int8 weight: its own parts, as they are published. */
export function planInt8({ threshold }: Int8, [out, inp]: Matrix): HoldingPlan {
  const bytes = out * inp + 4 * out;
  return {
    level: 'native',
    bytes,
    metaBytes: 0,
    hold({ parts }: QuantizedTensor): HeldWeight {
      const codes = elements({ dtype: 'i8', data: parts.codes!.data.slice() });
      const scale = toFloat32(parts.scale!).slice();
      const outliers = { products: 0, columns: 0 };
      return {
        bytes,
        outliers,
        fill(from, to, into) {
          for (let row = from, i = 0; row < to; row++) {
            for (let k = 0; k < inp; k++, i++) into[i] = f(f(codes[row * inp + k]! * scale[row]!) * INT8_STEP);
          }
        },
        multiply(x, bias, y) {
          const rows = quantizeInt8Rows(x, inp, threshold);
          outliers.products++;
          outliers.columns += rows.outliers.length;
          multiplyInt8(rows, x, codes, scale, bias, y);
        },
      };
    },
  };
}

function multiplyInt8(
  { codes: a, scale: rowScale, outliers }: Int8Rows,
  x: Float32Array,
  b: Int8Array,
  scale: Float32Array,
  bias: Float32Array | undefined,
  y: Float32Array,
): void {
  const out = scale.length;
  const inp = b.length / out;
  const wide = new Float32Array(outliers.length); // the row's weights in the outlier columns
  for (let i = 0; i < out; i++) {
    const s = scale[i]!;
    for (let j = 0; j < outliers.length; j++) wide[j] = f(b[i * inp + outliers[j]!]! * s) * INT8_STEP;
    for (let row = 0; row < rowScale.length; row++) {
      const at = row * inp;
      let sum = (dot(a, at, b, i * inp, inp) * rowScale[row]! * s) / 16129;
      for (let j = 0; j < outliers.length; j++) sum += x[at + outliers[j]!]! * wide[j]!;
      y[row * out + i] = bias ? sum + bias[i]! : sum;
    }
  }
}

/** Exact: a product is at most 127^2, so 2^17 of them fit an int32; longer rows go on in float64. */
function dot(a: Int8Array, aAt: number, b: Int8Array, bAt: number, count: number): number {
  let total = 0;
  for (let from = 0; from < count; from += 1 << 17) {
    const to = Math.min(count, from + (1 << 17));
    let sum = 0;
    for (let k = from; k < to; k++) sum = (sum + a[aAt + k]! * b[bAt + k]!) | 0;
    total += sum;
  }
  return total;
}
