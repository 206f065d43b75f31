// How the reference holds a weight: compact, and able to give any of its rows as the codec's own numbers.
//
//   dense    stored bits (f16, bf16) or floats
//   grouped  codes with float32 scales and zeros, or scales and a table, for groups within rows or columns: the kernels of grouped.ts
//   rotated  any of these in a rotated basis: rotation.ts
//   int8     rows of 8-bit codes, multiplied with activations rounded to 8 bits: int8.ts
//   stored   anything else: the published parts, dequantized by the codec when needed

import { codecFor } from '../codecs/index.ts';
import { byteLength, DTYPE_BYTES, elements, FLOAT_DTYPES, f16Table, readFloat32, toFloat32 } from '../dtype.ts';
import type { OutlierCount } from '../spec/backend.ts';
import { LowbitError } from '../spec/errors.ts';
import type { Codebook, Dense, Format, FormatCodec, Int8, QuantizedTensor } from '../spec/format.ts';
import type { HostTensor, Matrix } from '../spec/tensor.ts';
import { planGrouped } from './grouped.ts';
import { planInt8 } from './int8.ts';
import { planRotated, type Rotation } from './rotation.ts';

/** What the product of a table entry and a scale is rounded to: HIGGS' kernels have 16 bits there. */
export type ProductDtype = 'f32' | 'f16' | 'bf16';

/** A weight in memory. */
export interface HeldWeight {
  /** Bytes it takes. */
  readonly bytes: number;
  /** Writes rows [from, to) to the start of `into`: float32 numbers, widened. */
  fill(from: number, to: number, into: Float64Array): void;
  /** out[i] = x.row(i) + bias[i] for all rows: a fused product for one row of x, with the sums of matmul.ts. Absent where tiles do. */
  readonly multiplyRow?: (x: Float64Array, out: Float32Array, bias: Float32Array | undefined) => void;
  /** out [rows, count] = the product of a format that has its own, which is not x W^T + bias alone. */
  readonly multiply?: (x: Float32Array, bias: Float32Array | undefined, out: Float32Array) => void;
  /** In place of the above, the rows in a rotated basis, and what becomes of x there. */
  readonly rotated?: { readonly rotation: Rotation; readonly weight: HeldWeight };
  /** Live counts of that product. */
  readonly outliers?: OutlierCount;
}

/** What holding a weight of that format and shape takes: known before there is data. */
export interface HoldingPlan {
  readonly level: 'native' | 'repack';
  readonly bytes: number;
  /** Of `bytes`, those of scales, zeros and tables; 0 for formats without them. */
  readonly metaBytes: number;
  /** `bytes` is what the result says it takes. */
  hold(weight: QuantizedTensor, bytes: number): HeldWeight;
}

/**
 * Device bytes of a plan. Here device and host memory are one, so what is kept in host memory is read from where it is, and only not counted.
 */
export function deviceBytes({ bytes, metaBytes }: HoldingPlan, offloadMeta: boolean | undefined): number {
  return offloadMeta ? bytes - metaBytes : bytes;
}

/**
 * How a weight would be held; `product` is what look-ups times scales are rounded to. Throws ERR_UNSUPPORTED_FORMAT if there is no codec for the format or
 * it cannot hold the shape.
 */
export function planHolding(format: Format, shape: Matrix, codecs: readonly FormatCodec[], product: ProductDtype = 'f32'): HoldingPlan {
  const codec = codecFor(format, codecs);
  codec.parts(format, shape);
  if (format.kind === 'dense') return planDense(format as Dense, shape);
  if (format.kind === 'int8') return planInt8(format as Int8, shape);
  if (format.kind === 'codebook' && (format as Codebook).rotate) {
    return planRotated(format as Codebook, shape, (inner, stored, rounded) => planHolding(inner, stored, codecs, rounded));
  }
  return planGrouped(codec, format, shape, product) ?? planStored(codec, format, shape, product);
}

function planDense(format: Dense, shape: Matrix): HoldingPlan {
  const { dtype } = format;
  if (!FLOAT_DTYPES.has(dtype)) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `a dense weight of ${dtype} is no weight of floating-point numbers`, {
      details: { dtype },
    });
  }
  const bytes = shape[0] * shape[1] * DTYPE_BYTES[dtype];
  return { level: 'native', bytes, metaBytes: 0, hold: (weight) => holdDense(weight.parts.weight!, shape, bytes) };
}

function holdDense(weight: HostTensor, shape: Matrix, bytes: number): HeldWeight {
  const [out, inp] = shape;
  const copy: HostTensor = { ...weight, data: weight.data.slice() };
  if (copy.dtype === 'f32') {
    const values = elements({ dtype: 'f32', data: copy.data });
    return {
      bytes,
      fill: (from, to, into) => into.set(values.subarray(from * inp, to * inp)),
      multiplyRow: (x, y, bias) => multiplyDenseRow(x, out, inp, (from) => ({ values, at: from * inp }), y, bias),
    };
  }
  const width = DTYPE_BYTES[copy.dtype];
  const wide = new Float32Array(4 * inp); // four rows widened: the scratch of both methods
  const bits = copy.dtype === 'f64' ? undefined : elements({ dtype: copy.dtype as 'f16' | 'bf16', data: copy.data });
  const words = new Uint32Array(wide.buffer);
  const widen = (from: number, to: number): void => {
    if (!bits) readFloat32(copy.dtype, copy.data.subarray(from * inp * width, to * inp * width), wide);
    else if (copy.dtype === 'bf16') widenBf16(bits, from * inp, (to - from) * inp, words);
    else widenF16(bits, from * inp, (to - from) * inp, wide);
  };
  return {
    bytes,
    fill(from, to, into) {
      for (let row = from; row < to; row += 4) {
        const end = Math.min(to, row + 4);
        widen(row, end);
        into.set(wide.subarray(0, (end - row) * inp), (row - from) * inp);
      }
    },
    multiplyRow: (x, y, bias) =>
      multiplyDenseRow(
        x,
        out,
        inp,
        (from, to) => {
          widen(from, to);
          return { values: wide, at: 0 };
        },
        y,
        bias,
      ),
  };
}

// As readFloat32, but each for one kind of array: these run once per weight and token.

/** bf16 is the upper half of f32. */
function widenBf16(bits: Uint16Array, from: number, count: number, words: Uint32Array): void {
  for (let i = 0; i < count; i++) words[i] = bits[from + i]! << 16;
}

function widenF16(bits: Uint16Array, from: number, count: number, into: Float32Array): void {
  const values = f16Table();
  for (let i = 0; i < count; i++) into[i] = values[bits[from + i]!]!;
}

/** One row of x against rows that `rows` gives four at a time. */
function multiplyDenseRow(
  x: Float64Array,
  out: number,
  inp: number,
  rows: (from: number, to: number) => { readonly values: Float32Array; readonly at: number },
  y: Float32Array,
  bias: Float32Array | undefined,
): void {
  const sums = new Float64Array(4);
  for (let row = 0; row < out; row += 4) {
    const count = Math.min(4, out - row);
    const { values, at } = rows(row, row + count);
    products4(x, inp, values, at, count, sums);
    for (let j = 0; j < count; j++) y[row + j] = bias ? sums[j]! + bias[row + j]! : sums[j]!;
  }
}

/** As the kernels of matmul.ts, over float32 weights: converting while loading saves a pass over a weight that is used once. */
function products4(x: Float64Array, n: number, w: Float32Array, at: number, count: number, sums: Float64Array): void {
  if (count < 4) {
    for (let j = 0; j < count; j++) {
      let sum = 0;
      for (let k = 0; k < n; k++) sum += x[k]! * w[at + j * n + k]!;
      sums[j] = sum;
    }
    return;
  }
  const [w1, w2, w3] = [at + n, at + 2 * n, at + 3 * n];
  let [s0, s1, s2, s3] = [0, 0, 0, 0];
  for (let k = 0; k < n; k++) {
    const v = x[k]!;
    s0 += v * w[at + k]!;
    s1 += v * w[w1 + k]!;
    s2 += v * w[w2 + k]!;
    s3 += v * w[w3 + k]!;
  }
  sums[0] = s0;
  sums[1] = s1;
  sums[2] = s2;
  sums[3] = s3;
}

/** Keeps the published parts and asks the codec for rows. */
function planStored(codec: FormatCodec, format: Format, shape: Matrix, product: ProductDtype): HoldingPlan {
  const specs = Object.entries(codec.parts(format, shape));
  const total = specs.reduce((sum, [, spec]) => sum + byteLength(spec), 0);
  const codes = specs.find(([part]) => part === 'codes');
  return {
    level: 'native',
    bytes: total,
    metaBytes: codes ? total - byteLength(codes[1]) : 0,
    hold(weight, bytes) {
      const parts = Object.fromEntries(Object.entries(weight.parts).map(([name, part]) => [name, { ...part, data: part.data.slice() }]));
      const kept: QuantizedTensor = { format, shape, parts };
      return { bytes, fill: (from, to, into) => into.set(toFloat32(codec.dequantize(kept, { from, to, dtype: product }))) };
    },
  };
}
