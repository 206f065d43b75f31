// Making and checking host tensors.

import { type AnyTypedArray, byteLength, DTYPE_BYTES, elements } from './dtype.ts';
import { LowbitError } from './spec/errors.ts';
import type { DType, HostTensor, Shape } from './spec/tensor.ts';

/** A host tensor over bytes or over a typed array of matching width (f16 and bf16: Uint16Array of bits). Not copied. Throws ERR_TENSOR_MISMATCH on a wrong length. */
export function hostTensor(dtype: DType, shape: Shape, values: AnyTypedArray): HostTensor {
  const data = new Uint8Array(values.buffer as ArrayBuffer, values.byteOffset, values.byteLength);
  const expected = byteLength({ dtype, shape });
  if (data.byteLength !== expected) {
    throw new LowbitError('ERR_TENSOR_MISMATCH', `${dtype} [${shape.join(', ')}] needs ${expected} bytes, got ${data.byteLength}`, {
      details: { dtype, shape, expected, actual: data.byteLength },
    });
  }
  return { dtype, shape, data };
}

/** An f32 tensor of the values, copied. */
export function float32Tensor(shape: Shape, values: ArrayLike<number>): HostTensor {
  return hostTensor('f32', shape, Float32Array.from(values));
}

/** Unsigned numbers of so many bytes, to move elements without looking at them. */
const MOVED_AS = { 1: 'u8', 2: 'u16', 4: 'u32', 8: 'f64' } as const;

/**
 * A matrix turned: [a, b] -> [b, a], any dtype, copied. What a weight of GPT-2's Conv1D ([in, out]) takes before it is quantized.
 * Throws ERR_TENSOR_MISMATCH for what is no whole matrix.
 *
 * @example
 * const q = await quantize(transpose(convWeight), nf4());
 */
export function transpose(matrix: HostTensor): HostTensor {
  const { dtype, shape, data } = matrix;
  const [rows, columns] = shape as readonly [number, number];
  if (shape.length !== 2 || data.byteLength !== byteLength(matrix)) {
    throw new LowbitError('ERR_TENSOR_MISMATCH', `cannot turn ${dtype} [${shape.join(', ')}] of ${data.byteLength} bytes`, {
      hint: 'Pass a whole matrix.',
      details: { dtype, shape },
    });
  }
  const as = MOVED_AS[DTYPE_BYTES[dtype] as keyof typeof MOVED_AS];
  const from = elements({ dtype: as, data });
  const turned = { dtype, shape: [columns, rows], data: new Uint8Array(data.byteLength) };
  const to = elements({ dtype: as, data: turned.data });
  for (let row = 0, i = 0; row < rows; row++) for (let column = 0; column < columns; column++, i++) to[column * rows + row] = from[i]!;
  return turned;
}
