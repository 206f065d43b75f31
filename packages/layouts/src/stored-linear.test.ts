import type { Codebook, HostTensor, StoredLinear } from '@lowbit/core';
import { float32Tensor, hostTensor, memorySource } from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import { readStoredLinear } from './stored-linear.ts';

const format: Codebook = { kind: 'codebook', bits: 4, dim: 1, group: 2, table: 'any', scale: 'f32', packing: 'bnb_nibble' };
const table = float32Tensor(
  [16, 1],
  Array.from({ length: 16 }, (_, i) => i),
);
const codes = hostTensor('u8', [3, 1], Uint8Array.of(1, 2, 3));
const scale = float32Tensor([3], [0.5, 1, 2]);
const stored: StoredLinear = { format, shape: [1, 5], parts: { codes: 'm.codes', scale: 'm.scale' }, constants: { table } };

const read = (tensors: Record<string, HostTensor>, more: Partial<StoredLinear> = {}) =>
  readStoredLinear(memorySource({ 'm.codes': codes, 'm.scale': scale, ...tensors }), { ...stored, ...more }, { path: 'm' });

describe('readStoredLinear', () => {
  it('takes parts from tensors and constants', async () => {
    expect(await read({})).toEqual({ format, shape: [1, 5], parts: { codes, table, scale } });
  });

  it('takes the first bytes of longer tensors, whatever their elements are', async () => {
    const whole = await read({});
    const longer = float32Tensor([5], [0.5, 1, 2, 9, 9]);
    expect(await read({ 'm.codes': hostTensor('u8', [4, 1], Uint8Array.of(1, 2, 3, 9)), 'm.scale': longer })).toEqual(whole);
    expect(await read({ 'm.codes': { dtype: 'f16', shape: [2], data: Uint8Array.of(1, 2, 3, 9) } })).toEqual(whole);
  });

  it.each([
    ['a short tensor', { 'm.scale': float32Tensor([2], [1, 2]) }, {}, 'scale'],
    ['no such tensor', {}, { parts: { codes: 'm.codes', scale: 'm.scales' } }, 'scale'],
    ['a part without a tensor', {}, { parts: { codes: 'm.codes' } }, 'scale'],
    ['a short constant', {}, { constants: { table: float32Tensor([15, 1], new Array(15).fill(0)) } }, 'table'],
    ['a long constant', {}, { constants: { table: float32Tensor([17, 1], new Array(17).fill(0)) } }, 'table'],
    ['a constant of another dtype', {}, { constants: { table: { ...table, dtype: 'i32' } } }, 'table'],
  ] as [string, Record<string, HostTensor>, Partial<StoredLinear>, string][])('refuses %s', async (_what, tensors, more, part) => {
    await expect(read(tensors, more)).rejects.toMatchObject({ code: 'ERR_TENSOR_MISMATCH', details: { path: 'm', part } });
  });
});
