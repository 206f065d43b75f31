import { expect, it } from 'vitest';
import { castFloat, elements, toFloat32 } from './dtype.ts';
import type { DType } from './spec/tensor.ts';
import { float32Tensor, hostTensor, transpose } from './tensor.ts';

it.each(['f32', 'f16', 'bf16', 'f64'] as const)('turns a matrix of %s', (dtype: DType) => {
  const matrix =
    dtype === 'f64'
      ? hostTensor('f64', [2, 3], Float64Array.of(1, 2, 3, 4, 5, 6))
      : castFloat(float32Tensor([2, 3], [1, 2, 3, 4, 5, 6]), dtype);
  const turned = transpose(matrix);
  expect([turned.dtype, turned.shape, [...toFloat32(turned)]]).toEqual([dtype, [3, 2], [1, 4, 2, 5, 3, 6]]);
  expect(toFloat32(transpose(turned))).toEqual(toFloat32(matrix));
});

it('keeps every bit, wherever the bytes lie', () => {
  const bits = Uint32Array.of(0x7fc00001, 0x80000000, 1, 0xffc12345);
  const bytes = new Uint8Array(17);
  bytes.set(new Uint8Array(bits.buffer), 1);
  const turned = transpose({ dtype: 'f32', shape: [2, 2], data: bytes.subarray(1) });
  expect([...elements({ dtype: 'u32', data: turned.data })]).toEqual([bits[0], bits[2], bits[1], bits[3]]);
});

it.each([[[6]], [[1, 2, 3]], [[2, 4]]])('refuses %j for six numbers', (shape) => {
  expect(() => transpose({ ...float32Tensor([6], [1, 2, 3, 4, 5, 6]), shape })).toThrow(
    expect.objectContaining({ code: 'ERR_TENSOR_MISMATCH' }),
  );
});
