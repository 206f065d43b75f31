import { type Checkpoint, float32Tensor, type LinearSite, type Matrix, memorySource, toFloat32 } from '@lowbit/core';
import { expect, test } from 'vitest';
import { readSite } from './read-site.ts';

const tensors = {
  'mlp.experts.up': float32Tensor(
    [3, 4, 6],
    Array.from({ length: 72 }, (_, i) => i),
  ),
  'c_attn.weight': float32Tensor(
    [6, 3],
    Array.from({ length: 18 }, (_, i) => i),
  ),
};
const source = memorySource(tensors);
const checkpoint: Pick<Checkpoint, 'quantized' | 'linear' | 'tensor'> = {
  quantized: new Map(),
  linear: async (path) => {
    const weight = await source.read(`${path}.weight`);
    return { format: { kind: 'dense', dtype: 'f32' }, shape: weight.shape as unknown as Matrix, parts: { weight } };
  },
  tensor: (name, options) => source.read(name, options),
};
const site = { tag: '', layer: 0, bias: false };

test('a weight among the rows of a larger tensor', async () => {
  const expert: LinearSite = { ...site, path: 'mlp.experts.2.up', shape: [4, 6], stacked: { tensor: 'mlp.experts.up', row: 8 } };
  const weight = await readSite(checkpoint, expert);
  expect(weight).toMatchObject({ format: { kind: 'dense', dtype: 'f32' }, shape: [4, 6] });
  expect([...toFloat32(weight.parts.weight!)]).toEqual(Array.from({ length: 24 }, (_, i) => 48 + i));
});

test('a weight that is stored as [in, out]', async () => {
  const weight = await readSite(checkpoint, { ...site, path: 'c_attn', shape: [3, 6], transposed: true });
  expect(weight.shape).toEqual([3, 6]);
  expect([...toFloat32(weight.parts.weight!).subarray(0, 6)]).toEqual([0, 3, 6, 9, 12, 15]);
});
