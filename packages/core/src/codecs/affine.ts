// w = (q - zero) * scale on groups. Order of evaluation: scale and zero are cast to the dtype asked for, then the difference is rounded to it, then
// the product (HQQ: specification of the published layouts; the same arithmetic gives LLM.int8's rows).
//
// The grouped matrix of T weights has one group per row (axis 1: T/group x group) or per column (axis 0: group x T/group). In both it is the flat
// weight cut into rows, so a range of weight rows is a flat range of it, whether or not groups end where rows do.

import { roundTo, writeFloat32 } from '../dtype.ts';
import { packing } from '../pack/index.ts';
import type { Affine, FormatCodec, QuantizedTensor } from '../spec/format.ts';
import type { Matrix, Shape } from '../spec/tensor.ts';
import { eachChunk, type PackedCodes } from './chunks.ts';
import { type ComputeDType, checkInteger, checkParts, rowRange, unsupported, weightCount } from './parts.ts';
import { rounding } from './rounding.ts';
// biome-ignore lint/suspicious/noImportCycles: see stored.ts
import { storedNumbers, storedParts } from './stored.ts';

export interface Grouping {
  /** The grouped matrix, R x C: what `codes` is packed from. */
  readonly rows: number;
  readonly columns: number;
  /** Number of groups: scales, zeros. */
  readonly groups: number;
  /** Elements per group. */
  readonly group: number;
}

/** How a format groups a weight of that shape. Throws ERR_UNSUPPORTED_FORMAT if the group size does not divide the number of weights. */
export function grouping(format: Pick<Affine, 'group' | 'axis'>, shape: Matrix): Grouping {
  const count = weightCount(shape);
  const [out, inp] = shape;
  const group = format.group ?? (format.axis === 1 ? inp : out);
  checkInteger('group', group, 1);
  if (count % group !== 0) {
    throw unsupported(
      `groups of ${group} do not divide the ${count} weights of [${out}, ${inp}]`,
      'Choose a group size that divides out_features * in_features, or null for whole rows or columns.',
      { group, shape },
    );
  }
  const groups = count / group;
  return format.axis === 1 ? { rows: groups, columns: group, groups, group } : { rows: group, columns: groups, groups, group };
}

/** Numbers of groups [from, to). */
interface Grid {
  readonly from: number;
  readonly scale: Float32Array;
  readonly zero: Float32Array;
}

function readGrid({ format, shape, parts }: QuantizedTensor<Affine>, from: number, to: number, dtype: ComputeDType): Grid {
  const { groups } = grouping(format, shape);
  const range = { from, to, dtype };
  const scale = storedNumbers(parts, 'scale', format.scale, groups, range);
  const zero =
    format.zero === 'none'
      ? new Float32Array(to - from).fill(roundTo(dtype, format.levels / 2))
      : storedNumbers(parts, 'zero', format.zero, groups, range);
  return { from, scale, zero };
}

function packedCodes({ format, shape, parts }: QuantizedTensor<Affine>): PackedCodes {
  const { rows, columns } = grouping(format, shape);
  return { packing: packing(format.packing), packed: parts.codes!.data, rows, columns };
}

/** Axis 1: groups are runs of consecutive elements. */
function dequantizeRows(tensor: QuantizedTensor<Affine>, from: number, to: number, dtype: ComputeDType, values: Float32Array): void {
  const source = packedCodes(tensor);
  const group = source.columns;
  const round = rounding(dtype);
  eachChunk(source, from, to, (codes, at, count) => {
    const grid = readGrid(tensor, Math.floor(at / group), Math.ceil((at + count) / group), dtype);
    const start = at - grid.from * group;
    const into = values.subarray(at - from, at - from + count);
    for (let g = 0, i = 0; i < count; g++) {
      const end = Math.min(count, (g + 1) * group - start);
      const zero = grid.zero[g]!;
      const scale = grid.scale[g]!;
      if (dtype === 'f32') {
        for (; i < end; i++) into[i] = Math.fround(codes[i]! - zero) * scale;
      } else {
        for (; i < end; i++) into[i] = round(round(codes[i]! - zero) * scale);
      }
    }
  });
}

/** Axis 0: element f is of group f mod C, so a run within a row of the grouped matrix meets consecutive groups. */
function dequantizeColumns(tensor: QuantizedTensor<Affine>, from: number, to: number, dtype: ComputeDType, values: Float32Array): void {
  const source = packedCodes(tensor);
  const { columns } = source;
  const round = rounding(dtype);
  // A range shorter than a row meets each group once at most; a longer one would read them again and again.
  const whole = to - from >= columns ? readGrid(tensor, 0, columns, dtype) : undefined;
  eachChunk(source, from, to, (codes, at, count) => {
    const into = values.subarray(at - from, at - from + count);
    for (let i = 0; i < count; ) {
      const column = (at + i) % columns;
      const end = Math.min(count, i + columns - column);
      const grid = whole ?? readGrid(tensor, column, column + end - i, dtype);
      const { scale, zero } = grid;
      if (dtype === 'f32') {
        for (let g = column - grid.from; i < end; i++, g++) into[i] = Math.fround(codes[i]! - zero[g]!) * scale[g]!;
      } else {
        for (let g = column - grid.from; i < end; i++, g++) into[i] = round(round(codes[i]! - zero[g]!) * scale[g]!);
      }
    }
  });
}

/**
 * Affine grids. Parts: `codes` (packed from the grouped matrix), `scale` and, unless `none`, `zero`, each [groups, 1] (axis 1) or [1, groups]
 * (axis 0), or the parts of a nested format under `scale.` and `zero.`, which sees them as a weight [groups, 1]. Codes beyond `levels` that the
 * packing can hold are dequantized by the formula too.
 */
export const affineCodec: FormatCodec<Affine> = {
  kind: 'affine',
  parts(format, shape) {
    const { rows, columns, groups } = grouping(format, shape);
    const codes = packing(format.packing);
    checkInteger('levels', format.levels, 2, 256);
    if (format.levels > 2 ** codes.bits) {
      throw unsupported(`${format.packing} holds ${codes.bits} bits, too few for ${format.levels} levels`, 'Choose a wider packing.', {
        packing: format.packing,
        levels: format.levels,
      });
    }
    const perGroup: Shape = format.axis === 1 ? [groups, 1] : [1, groups];
    return {
      codes: { dtype: codes.dtype, shape: codes.shape(rows, columns) },
      ...storedParts('scale', format.scale, perGroup),
      ...(format.zero === 'none' ? {} : storedParts('zero', format.zero, perGroup)),
    };
  },
  unpackRows(tensor, from, to) {
    rowRange(tensor.shape, from, to);
    checkParts(affineCodec.parts(tensor.format, tensor.shape), tensor.parts);
    const inp = tensor.shape[1];
    const source = packedCodes(tensor);
    const data = new Uint8Array((to - from) * inp);
    source.packing.unpackRange(source.packed, source.rows, source.columns, from * inp, to * inp, data);
    return { dtype: 'u8', shape: [to - from, inp], data };
  },
  numbers(tensor) {
    checkParts(affineCodec.parts(tensor.format, tensor.shape), tensor.parts);
    const { scale, zero } = readGrid(tensor, 0, grouping(tensor.format, tensor.shape).groups, 'f32');
    return { scale, zero };
  },
  dequantize(tensor, options = {}) {
    const [from, to] = rowRange(tensor.shape, options.from, options.to);
    checkParts(affineCodec.parts(tensor.format, tensor.shape), tensor.parts);
    const dtype = options.dtype ?? 'f32';
    const inp = tensor.shape[1];
    const values = new Float32Array((to - from) * inp);
    const run = tensor.format.axis === 1 ? dequantizeRows : dequantizeColumns;
    run(tensor, from * inp, to * inp, dtype, values);
    const data = dtype === 'f32' ? new Uint8Array(values.buffer) : writeFloat32(dtype, values);
    return { dtype, shape: [to - from, inp], data };
  },
};
