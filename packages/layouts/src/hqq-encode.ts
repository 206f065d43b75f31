// Values of one module as tensors, with the dtypes that the Python library's encoder gives them (hqq 0.2.x).

import type { DType, FixedTensor, Shape, TensorSpec } from '@lowbit/core';
import { tensorName } from './names.ts';

/** What makes the tensors of the module at `path`. */
export interface ModuleEncoder {
  /** The bytes of a part of the quantized weight. */
  part(name: string, from: string, spec: TensorSpec): FixedTensor;
  flag(name: string, value: boolean): FixedTensor;
  /** i32; f32 for a number that is not whole: the library tells the two apart by their Python type, and of its numbers 1.58 bits alone is a float. */
  number(name: string, value: number): FixedTensor;
  /** ASCII. */
  text(name: string, value: string): FixedTensor;
  /** i64, as torch has sizes. */
  extents(name: string, value: Shape): FixedTensor;
}

export function moduleEncoder(path: string): ModuleEncoder {
  const constant = (name: string, dtype: DType, shape: Shape, values: ArrayLike<number> & ArrayBufferView): FixedTensor => ({
    name: tensorName(path, name),
    spec: { dtype, shape },
    content: { data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength) },
  });
  return {
    part: (name, from, spec) => ({ name: tensorName(path, name), spec, content: { part: from } }),
    flag: (name, value) => constant(name, 'u8', [], Uint8Array.of(value ? 1 : 0)),
    number: (name, value) =>
      Number.isInteger(value) ? constant(name, 'i32', [], Int32Array.of(value)) : constant(name, 'f32', [], Float32Array.of(value)),
    text: (name, value) => constant(name, 'u8', [value.length], new TextEncoder().encode(value)),
    extents: (name, value) => ({
      name: tensorName(path, name),
      spec: { dtype: 'i64', shape: [value.length] },
      content: { data: new Uint8Array(BigInt64Array.from(value, BigInt).buffer) },
    }),
  };
}
