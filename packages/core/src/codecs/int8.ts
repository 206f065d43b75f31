// LLM.int8 rows: w = (q * scale[row]) * f32(1 / 127), both products rounded to f32, then once more to the dtype asked for.

import { elements, readFloat32, writeFloat32 } from '../dtype.ts';
import type { FormatCodec, Int8, QuantizedTensor } from '../spec/format.ts';
import { checkParts, rowRange, unsupported, weightCount } from './parts.ts';

/** 1 / 127 as bitsandbytes has it, in float32. */
export const INT8_STEP: number = Math.fround(7.874015718698502e-3);

function readScales({ shape, parts }: QuantizedTensor<Int8>): Float32Array {
  const scale = new Float32Array(shape[0]);
  readFloat32('f32', parts.scale!.data, scale);
  return scale;
}

/** Rows of 8-bit codes with the largest magnitude of each. Parts: `codes` i8 [out, in], `scale` f32 [out]. */
export const int8Codec: FormatCodec<Int8> = {
  kind: 'int8',
  parts({ threshold }, shape) {
    weightCount(shape);
    if (!(threshold >= 0 && threshold < Number.POSITIVE_INFINITY)) {
      throw unsupported(
        `an outlier threshold must be a number of at least 0, got ${threshold}`,
        'The usual one is 6; 0 turns outliers off.',
        {
          threshold,
        },
      );
    }
    return { codes: { dtype: 'i8', shape }, scale: { dtype: 'f32', shape: [shape[0]] } };
  },
  unpackRows(tensor, from, to) {
    rowRange(tensor.shape, from, to);
    checkParts(int8Codec.parts(tensor.format, tensor.shape), tensor.parts);
    const inp = tensor.shape[1];
    return { dtype: 'i8', shape: [to - from, inp], data: tensor.parts.codes!.data.slice(from * inp, to * inp) };
  },
  numbers(tensor) {
    checkParts(int8Codec.parts(tensor.format, tensor.shape), tensor.parts);
    return { scale: readScales(tensor) };
  },
  dequantize(tensor, options = {}) {
    const [from, to] = rowRange(tensor.shape, options.from, options.to);
    checkParts(int8Codec.parts(tensor.format, tensor.shape), tensor.parts);
    const inp = tensor.shape[1];
    const codes = elements({ dtype: 'i8', data: tensor.parts.codes!.data.subarray(from * inp, to * inp) });
    const scale = readScales(tensor).subarray(from, to);
    const values = new Float32Array(codes.length);
    for (let row = 0, i = 0; row < scale.length; row++) {
      const s = scale[row]!;
      for (const end = i + inp; i < end; i++) values[i] = Math.fround(codes[i]! * s) * INT8_STEP;
    }
    const dtype = options.dtype ?? 'f32';
    const data = dtype === 'f32' ? new Uint8Array(values.buffer) : writeFloat32(dtype, values);
    return { dtype, shape: [to - from, inp], data };
  },
};
