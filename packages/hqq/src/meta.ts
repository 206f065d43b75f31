// Quantized meta-data: scales or zeros of a layer as 8-bit codes on grids of their own, the library's `quant_scale` and `quant_zero`.
//
// The library passes the numbers, still in float32, through its quantizer a second time: 8 bits, no solver, axis 0, zero not rounded. With G scales
// in groups of 128 that is a matrix of 128 rows and G / 128 columns whose columns are the groups, so group c has scales c, c + G/128, ... It stopped
// doing so before it had the rule for small ranges, under which 128 scales within 1e-4 would all become one.

import { type Affine, type DType, dequantize, type HostTensor, type PartWriter, toFloat32, writeFloat32 } from '@lowbit/core';
import { storePlain } from './finish.ts';
import { assignCodes, minMaxGrid } from './grid.ts';
import type { StorageDtype } from './solver.ts';

/** Quantizes all scales (or zeros) of a layer, writes the parts of the nested format, and returns the numbers that a reader will find. */
export async function quantizeMeta(
  values: Float32Array,
  format: Affine,
  name: string,
  what: 'scale' | 'zero',
  out: PartWriter,
): Promise<Float32Array> {
  const count = values.length;
  const size = format.group ?? count;
  const groups = count / size;
  const block = { weights: transposed(values, size, groups), groups, size };
  const inverse = new Float32Array(groups);
  const zero = new Float32Array(groups);
  minMaxGrid(block, { levels: format.levels, roundZero: false, smallRange: false }, inverse, zero);
  const codes = new Uint8Array(count);
  assignCodes(block, format.levels, inverse, zero, codes);

  const scale = inverse.map((s) => 1 / s);
  const dtype = format.scale as StorageDtype;
  const plain = (numbers: Float32Array, part: 'scale' | 'zero', of: DType): HostTensor => {
    const stored = storePlain(numbers, of as StorageDtype, `${name}: ${what}s`, part).values;
    return { dtype: of, shape: [1, groups], data: writeFloat32(of, stored) };
  };
  const parts = {
    codes: { dtype: 'u8' as const, shape: [size, groups], data: transposed(codes, groups, size) },
    scale: plain(scale, 'scale', dtype),
    zero: plain(zero, 'zero', format.zero as DType),
  };
  for (const [part, { data }] of Object.entries(parts)) await out.write(`${what}.${part}`, 0, data);
  return toFloat32(dequantize({ format, shape: [count, 1], parts }));
}

/** A matrix [rows, columns] as [columns, rows]. */
function transposed<T extends Float32Array | Uint8Array>(matrix: T, rows: number, columns: number): T {
  const out = matrix.slice() as T;
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = matrix[r * columns + c]!;
  return out;
}
