// Making and checking host tensors.

import { type AnyTypedArray, byteLength } from './dtype.ts';
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
