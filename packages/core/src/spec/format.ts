// A format says how the numbers of one weight matrix are represented. It is a plain record: methods produce formats, backends consume them, and
// neither knows the other. Sizes follow from (format, shape) alone, so a plan can be printed and a file header written before any data exists.

import type { DType, HostTensor, JsonObject, Matrix, TensorSpec } from './tensor.ts';

/** Plain numbers. Part: `weight` [out, in]. */
export interface Dense {
  readonly kind: 'dense';
  readonly dtype: DType;
}

/**
 * Group-wise affine grid: w = (q - zero) * scale, q in 0 .. levels - 1.
 *
 * With T = out * in and the weight seen as one flat row-major sequence, `axis: 1` makes groups of `group` consecutive elements (they may run
 * across row ends), `axis: 0` makes group c of the elements c, c + T/group, c + 2 T/group, ....
 * `group: null` means one group per row (axis 1) or per column (axis 0).
 *
 * Parts: `codes` (packed), `scale` and `zero`, each [T/group, 1] (axis 1) or [1, T/group] (axis 0); a nested format contributes its own parts
 * under `scale.` or `zero.`.
 */
export interface Affine {
  readonly kind: 'affine';
  /** 256, 64, 32, 16, 8, 4, 3 (1.58 bits) or 2. */
  readonly levels: number;
  readonly group: number | null;
  readonly axis: 0 | 1;
  readonly scale: DType | Affine | Codebook;
  /** `none`: codes are signed around (levels / 2), w = (q - levels/2) * scale. */
  readonly zero: 'none' | DType | Affine;
  /** Order of codes in `codes`; a name from the packing table. */
  readonly packing: string;
}

/**
 * Table look-up: w = table[q] * scale of its block (of `group` consecutive elements), for `dim` consecutive elements at a time.
 * Parts: `codes` (packed), `table` [2^(bits*dim), dim] f32, `scale` [ceil(T/group)]; a nested scale contributes `scale.*` parts, with `offset`
 * also `scale.offset` (one f32 added after the nested look-up).
 *
 * With `rotate` (HIGGS) every row was filled up with zeros to K, the next multiple of `rotate.block`, and every run of `rotate.block` numbers multiplied by
 * the normalised Hadamard matrix before quantization: all of the above then speaks of [out, K] instead of [out, in]. A backend fills up and rotates
 * activations in the same way, once for all linears with the same input and block; dequantize undoes the rotation and drops the filling. Products are
 * rounded to the dtype of the scale where that is f16 or bf16: those are the weights of HIGGS's kernels.
 */
export interface Codebook {
  readonly kind: 'codebook';
  readonly bits: number;
  readonly dim: 1 | 2;
  readonly group: number;
  /** Name of the table for people and for fast paths (`nf4`, `fp4`, `higgs-4-2`, ...); the numbers are always the `table` part. */
  readonly table: string;
  readonly scale: DType | Affine | Codebook;
  readonly offset?: boolean;
  readonly packing: string;
  readonly rotate?: { readonly kind: 'hadamard'; readonly block: number };
}

/**
 * LLM.int8 (Dettmers et al., 2022): w = (q * scale[row]) * f32(1 / 127), q in -127 .. 127. Parts: `codes` i8 [out, in], `scale` f32 [out], the largest
 * magnitude of each row.
 *
 * The product is not that of the weights alone: backends round every row of activations to 8 bits, too, but for the columns in which a row at hand has
 * a magnitude of at least `threshold`; those are computed in floating point. See reference/int8.ts for the sums.
 */
export interface Int8 {
  readonly kind: 'int8';
  /** 0: no column is computed in floating point. */
  readonly threshold: number;
}

/** A third party's own family; its codec is passed to `createRuntime({ codecs })`. */
export interface Custom {
  readonly kind: `${string}:${string}`;
  readonly params: JsonObject;
}

/** How numbers are stored. */
export type Format = Dense | Affine | Codebook | Int8 | Custom;

/** One weight in one format. Parts are named tensors; their dtypes and shapes are those of `FormatCodec.parts`. */
export interface QuantizedTensor<F extends Format = Format> {
  readonly format: F;
  readonly shape: Matrix;
  readonly parts: Readonly<Record<string, HostTensor>>;
}

/** Of `dequantize`. */
export interface DequantizeOptions {
  /** Dtype of the result. Affine formats round every operation to it; codebooks compute in f32 and round once, as the Python libraries do. Default f32. */
  readonly dtype?: 'f32' | 'f16' | 'bf16';
  /** First row; default 0. */
  readonly from?: number;
  /** Row after the last; default all. */
  readonly to?: number;
}

/**
 * What makes weights of codes, in f32: dtypes cast, nested formats dequantized, offsets added. Group g is the g-th of the format's description: along
 * axis 1, and for blocks of a codebook, it starts at flat element g * group; along axis 0 it is the elements g, g + T/group, ... The last block of a
 * codebook may be short. Every operation below rounds to f32.
 *
 *   affine    w = (q - zero[g]) * scale[g]; `zero` is there for `none`, too (levels / 2 everywhere)
 *   codebook  w[j] = table[q * dim + j] * scale[g], j < dim; with `rotate` these are the weights before the rotation is undone, and a scale of f16 or
 *             bf16 rounds the product to its dtype, too
 *   int8      w = (q * scale[row]) * f32(1 / 127)
 */
export interface FormatNumbers {
  /** One per group; one per row of int8. */
  readonly scale: Float32Array;
  /** One per group; affine alone. */
  readonly zero?: Float32Array;
  /** [2^(bits * dim), dim] row by row; codebooks alone. */
  readonly table?: Float32Array;
}

/** The meaning of one family of formats, as pure functions. */
export interface FormatCodec<F extends Format = Format> {
  readonly kind: F['kind'];
  /** Names, dtypes and shapes of the parts. Throws ERR_UNSUPPORTED_FORMAT if the format cannot hold the shape. */
  parts(format: F, shape: Matrix): Readonly<Record<string, TensorSpec>>;
  /**
   * Codes of weight rows [from, to), one per element (or per `dim` elements), whatever the packing: u8 [to - from, in / dim], i8 of
   * int8. Of rotated codebooks [to - from, K / dim], the codes of the filling among them.
   */
  unpackRows(tensor: QuantizedTensor<F>, from: number, to: number): HostTensor;
  /**
   * Scales with zeros or a table, as new arrays: with the codes of `unpackRows` all that a backend needs to make weights of its own. undefined for
   * formats that are not made of codes, scales and zeros or a table (dense; custom ones as they like): those are read with `dequantize`.
   * Throws ERR_TENSOR_MISMATCH for parts that do not fit the format.
   */
  numbers(tensor: QuantizedTensor<F>): FormatNumbers | undefined;
  /** Normative numbers of weight rows [from, to). */
  dequantize(tensor: QuantizedTensor<F>, options?: DequantizeOptions): HostTensor;
}
