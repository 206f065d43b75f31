// What can be asked of a quantized weight without a backend: its numbers, its error, its size, and whether it is whole.

import { codecFor } from './codecs/index.ts';
import { checkParts } from './codecs/parts.ts';
import { byteLength, DTYPE_BYTES, elementCount, readFloat32, toFloat32 } from './dtype.ts';
import { LowbitError } from './spec/errors.ts';
import type { DequantizeOptions, Format, FormatCodec, QuantizedTensor } from './spec/format.ts';
import type { HostTensor, Matrix } from './spec/tensor.ts';

/** Codecs beside the built-in ones. */
export interface CodecOptions {
  /** Codecs of custom formats. */
  readonly codecs?: readonly FormatCodec[];
}

/** Against the weight. */
export interface QuantizationError {
  /** Mean of squared differences. */
  readonly mse: number;
  /** Largest absolute difference. */
  readonly maxAbs: number;
  /** 10 log10(sum w^2 / sum (w - w')^2); Infinity for an exact copy. */
  readonly snrDb: number;
}

/** Weights compared at a time: bounds the memory, whatever the size of the weight. */
const BLOCK = 1 << 18;

/** The numbers of a quantized weight [out, in], f32 unless `dtype` says otherwise; of rows [from, to) if given. Throws ERR_TENSOR_MISMATCH. */
export function dequantize(tensor: QuantizedTensor, options: DequantizeOptions & CodecOptions = {}): HostTensor {
  if (typeof tensor?.format !== 'object' || tensor.format === null) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'dequantize needs a quantized tensor', { hint: 'Pass what quantize gives.' });
  }
  const { codecs, ...rest } = options;
  return codecFor(tensor.format, codecs).dequantize(tensor, rest);
}

/** How far a quantized weight is from the weight it was made of. Sums are f64, over the f32 numbers of both. Throws ERR_TENSOR_MISMATCH on other shapes. */
export function quantizationError(weight: HostTensor, quantized: QuantizedTensor, options: CodecOptions = {}): QuantizationError {
  const [out, inp] = quantized.shape;
  const count = elementCount(quantized.shape);
  if (weight.shape.length !== 2 || weight.shape[0] !== out || weight.shape[1] !== inp || weight.data.byteLength !== byteLength(weight)) {
    throw new LowbitError('ERR_TENSOR_MISMATCH', `cannot compare a weight of [${weight.shape.join(', ')}] with one of [${out}, ${inp}]`, {
      details: { expected: quantized.shape, actual: weight.shape },
    });
  }
  const codec = codecFor(quantized.format, options.codecs);
  const rowBytes = inp * DTYPE_BYTES[weight.dtype];
  const step = Math.max(1, Math.floor(BLOCK / inp));
  const original = new Float32Array(Math.min(step, out) * inp);
  let squaredError = 0;
  let squaredWeight = 0;
  let maxAbs = 0;
  for (let from = 0; from < out; from += step) {
    const to = Math.min(out, from + step);
    readFloat32(weight.dtype, weight.data.subarray(from * rowBytes, to * rowBytes), original);
    const values = toFloat32(codec.dequantize(quantized, { from, to }));
    for (let i = 0; i < values.length; i++) {
      const error = original[i]! - values[i]!;
      squaredError += error * error;
      squaredWeight += original[i]! * original[i]!;
      maxAbs = Math.max(maxAbs, Math.abs(error));
    }
  }
  const snrDb = squaredError === 0 ? Number.POSITIVE_INFINITY : 10 * Math.log10(squaredWeight / squaredError);
  return { mse: squaredError / count, maxAbs, snrDb };
}

/** Bits per weight of a format, all parts counted as they are in memory (tables too); for what a file takes see `linearBytes`. Throws ERR_UNSUPPORTED_FORMAT if it cannot hold the shape. */
export function bitsPerWeight(format: Format, shape: Matrix, options: CodecOptions = {}): number {
  const specs = Object.values(codecFor(format, options.codecs).parts(format, shape));
  return (8 * specs.reduce((sum, spec) => sum + byteLength(spec), 0)) / elementCount(shape);
}

/** Throws ERR_TENSOR_MISMATCH, naming part, expected and actual, unless every part is there with its dtype and shape. Reads no numbers. */
export function validateQuantized(tensor: QuantizedTensor, options: CodecOptions = {}): void {
  checkParts(codecFor(tensor.format, options.codecs).parts(tensor.format, tensor.shape), tensor.parts);
}
