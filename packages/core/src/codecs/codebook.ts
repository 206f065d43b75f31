// w = table[q] * scale of the block. Order of evaluation: a nested scale is looked up in f32 and its offset added in f32; the product is rounded to
// f32, then once more to the dtype asked for (bitsandbytes: canonical dequantization; HIGGS' 16-bit table times 16-bit scale is exact in f32, so its
// single rounding comes out the same). A rotation is undone on the products, before the last rounding; HIGGS' kernels have products of 16 bits, so
// those of a rotated weight are rounded to the dtype of its scale first.

import { readFloat32, writeFloat32 } from '../dtype.ts';
import { packing } from '../pack/index.ts';
import { LowbitError } from '../spec/errors.ts';
import type { Codebook, Format, FormatCodec, QuantizedTensor } from '../spec/format.ts';
import type { Matrix, TensorSpec } from '../spec/tensor.ts';
import { eachChunk, type PackedCodes } from './chunks.ts';
import { hadamardBlocks, isHadamardSize } from './hadamard.ts';
import { checkInteger, checkParts, rowRange, unsupported, weightCount } from './parts.ts';
// biome-ignore lint/suspicious/noImportCycles: see stored.ts
import { storedNumbers, storedParts } from './stored.ts';

/** K: numbers of a row as it is stored, in_features filled up to whole Hadamard blocks if there is a rotation. */
export function storedColumns({ rotate }: Codebook, [, inp]: Matrix): number {
  return rotate ? Math.ceil(inp / rotate.block) * rotate.block : inp;
}

/** A rotated weight as the plain codebook weight [out, K] that it is in the rotated basis; another one as it is. */
export function rotatedBasis(tensor: QuantizedTensor<Codebook>): QuantizedTensor<Codebook> {
  const { rotate, ...format } = tensor.format;
  return rotate ? { format, shape: [tensor.shape[0], storedColumns(tensor.format, tensor.shape)], parts: tensor.parts } : tensor;
}

/**
 * A rotated weight, or where one is stored, with the in_features that the model says: files that hold rows filled up to [out, K] need not say how many of
 * the K are filling, and every in_features with the same K has the same parts. Anything else, or what does not fit, as it is.
 */
export function fitInputs<T extends { readonly format: Format; readonly shape: Matrix }>(stored: T, shape: Matrix): T {
  const { format, shape: own } = stored;
  if (format.kind !== 'codebook' || (format as Codebook).rotate === undefined || own[0] !== shape[0] || own[1] === shape[1]) return stored;
  return storedColumns(format as Codebook, own) === storedColumns(format as Codebook, shape) ? { ...stored, shape } : stored;
}

/** What products of table and scale are rounded to: the dtype of a 16-bit scale where there is a rotation, else f32. */
export function productDtype({ rotate, scale }: Codebook): 'f32' | 'f16' | 'bf16' {
  return rotate && (scale === 'f16' || scale === 'bf16') ? scale : 'f32';
}

function blockCount(format: Codebook, shape: Matrix): number {
  return Math.ceil((shape[0] * storedColumns(format, shape)) / format.group);
}

function packedCodes({ format, shape, parts }: QuantizedTensor<Codebook>): PackedCodes {
  return {
    packing: packing(format.packing),
    packed: parts.codes!.data,
    rows: shape[0],
    columns: storedColumns(format, shape) / format.dim,
  };
}

function readTable({ format, parts }: QuantizedTensor<Codebook>): Float32Array {
  const table = new Float32Array(2 ** (format.bits * format.dim) * format.dim);
  readFloat32('f32', parts.table!.data, table);
  return table;
}

/** Scales of blocks [from, to), f32. */
function readScales({ format, shape, parts }: QuantizedTensor<Codebook>, from: number, to: number): Float32Array {
  const scales = storedNumbers(parts, 'scale', format.scale, blockCount(format, shape), { from, to, dtype: 'f32' });
  if (!format.offset) return scales;
  const offset = new Float32Array(1);
  readFloat32('f32', parts['scale.offset']!.data, offset);
  return scales.map((scale) => scale + offset[0]!);
}

/** Throws ERR_TENSOR_MISMATCH for a code that has no table entry, where the packing has room for one. */
function checkCodes(format: Codebook, bits: number, codes: Uint8Array): void {
  const entries = 2 ** (format.bits * format.dim);
  if (2 ** bits === entries) return;
  const bad = codes.findIndex((code) => code >= entries);
  if (bad < 0) return;
  throw new LowbitError('ERR_TENSOR_MISMATCH', `part 'codes': code ${codes[bad]} is not in a table of ${entries} entries`, {
    details: { part: 'codes', code: codes[bad], entries },
  });
}

/** Products of flat elements [from, to), in the rotated domain if there is one. Both bounds are multiples of `dim`. */
function lookUp(tensor: QuantizedTensor<Codebook>, from: number, to: number, values: Float32Array): void {
  const { format } = tensor;
  const { dim } = format;
  const source = packedCodes(tensor);
  const table = readTable(tensor);
  const group = format.group / dim; // in codes from here on
  eachChunk(source, from / dim, to / dim, (codes, at, count) => {
    checkCodes(format, source.packing.bits, codes.subarray(0, count));
    const first = Math.floor(at / group);
    const scales = readScales(tensor, first, Math.ceil((at + count) / group));
    const start = at - first * group;
    let into = at * dim - from;
    for (let block = 0, i = 0; i < count; block++) {
      const scale = scales[block]!;
      const end = Math.min(count, (block + 1) * group - start);
      if (dim === 1) {
        for (; i < end; i++, into++) values[into] = table[codes[i]!]! * scale;
      } else {
        for (; i < end; i++, into += 2) {
          const entry = 2 * codes[i]!;
          values[into] = table[entry]! * scale;
          values[into + 1] = table[entry + 1]! * scale;
        }
      }
    }
  });
}

/** The first `inp` of every `width` numbers. */
function withoutFilling(rows: Float32Array, width: number, inp: number): Float32Array {
  const values = new Float32Array((rows.length / width) * inp);
  for (let from = 0, to = 0; from < rows.length; from += width, to += inp) values.set(rows.subarray(from, from + inp), to);
  return values;
}

/**
 * Table look-ups. Parts: `codes` (packed from the matrix [out, in / dim]), `table` [2^(bits * dim), dim] f32, `scale` [ceil(T / group)] or a nested
 * format's parts under `scale.` (which sees the scales as a weight [n, 1]), and `scale.offset`, f32 [], with `offset`. The last block may be short.
 */
export const codebookCodec: FormatCodec<Codebook> = {
  kind: 'codebook',
  parts(format, shape) {
    weightCount(shape);
    const { bits, dim, group, rotate } = format;
    const [out] = shape;
    if (rotate && !isHadamardSize(rotate.block)) {
      throw unsupported(`there is no Hadamard matrix of ${rotate.block} here`, 'Choose a power of two.', { block: rotate.block });
    }
    const inp = storedColumns(format, shape);
    checkInteger('out_features * stored in_features', out * inp, 1);
    const codes = packing(format.packing);
    checkInteger('dim', dim, 1, 2);
    checkInteger('bits', bits, 1);
    checkInteger('group', group, 1);
    if (bits * dim > codes.bits) {
      throw unsupported(`${format.packing} holds ${codes.bits} bits, too few for codes of ${bits * dim}`, 'Choose a wider packing.', {
        packing: format.packing,
        bits: bits * dim,
      });
    }
    if (inp % dim !== 0 || group % dim !== 0) {
      throw unsupported(`codes of ${dim} elements need in_features (${inp}) and group (${group}) to be multiples of ${dim}`, undefined, {
        shape,
        dim,
        group,
      });
    }
    if (format.offset && typeof format.scale === 'string') {
      throw unsupported('a scale offset needs a nested scale format', 'Drop `offset`, or quantize the scale.');
    }
    const offset: Readonly<Record<string, TensorSpec>> = format.offset ? { 'scale.offset': { dtype: 'f32', shape: [] } } : {};
    return {
      codes: { dtype: codes.dtype, shape: codes.shape(out, inp / dim) },
      table: { dtype: 'f32', shape: [2 ** (bits * dim), dim] },
      ...storedParts('scale', format.scale, [blockCount(format, shape)]),
      ...offset,
    };
  },
  unpackRows(tensor, from, to) {
    rowRange(tensor.shape, from, to);
    checkParts(codebookCodec.parts(tensor.format, tensor.shape), tensor.parts);
    const source = packedCodes(tensor);
    const { columns } = source;
    const data = new Uint8Array((to - from) * columns);
    source.packing.unpackRange(source.packed, source.rows, columns, from * columns, to * columns, data);
    return { dtype: 'u8', shape: [to - from, columns], data };
  },
  numbers(tensor) {
    checkParts(codebookCodec.parts(tensor.format, tensor.shape), tensor.parts);
    return { scale: readScales(tensor, 0, blockCount(tensor.format, tensor.shape)), table: readTable(tensor) };
  },
  dequantize(tensor, options = {}) {
    const [from, to] = rowRange(tensor.shape, options.from, options.to);
    checkParts(codebookCodec.parts(tensor.format, tensor.shape), tensor.parts);
    const dtype = options.dtype ?? 'f32';
    const { rotate } = tensor.format;
    const inp = tensor.shape[1];
    const width = storedColumns(tensor.format, tensor.shape);
    const rows = new Float32Array((to - from) * width);
    lookUp(tensor, from * width, to * width, rows);
    const product = productDtype(tensor.format);
    if (product !== 'f32') readFloat32(product, writeFloat32(product, rows), rows);
    if (rotate) hadamardBlocks(rows, rotate.block);
    const values = width === inp ? rows : withoutFilling(rows, width, inp);
    const data = dtype === 'f32' ? new Uint8Array(values.buffer) : writeFloat32(dtype, values);
    return { dtype, shape: [to - from, inp], data };
  },
};
