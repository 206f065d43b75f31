import type { TensorSpec } from '@lowbit/core';
import { expect, it } from 'vitest';
import { memoryFootprint } from './footprint.ts';

it('counts codes and plain tensors, not what belongs to codes', () => {
  const entries = new Map<string, TensorSpec>([
    ['embed.weight', { dtype: 'bf16', shape: [10, 4] }],
    ['a.weight', { dtype: 'u8', shape: [8, 1] }],
    ['a.weight.absmax', { dtype: 'f32', shape: [2] }],
    ['a.bias', { dtype: 'f32', shape: [4] }],
    ['ab.weight', { dtype: 'f32', shape: [3] }],
    ['b.W_q', { dtype: 'u8', shape: [2, 8] }],
    ['b.scale', { dtype: 'f16', shape: [4, 1] }],
  ]);
  const format = { kind: 'dense', dtype: 'f32' } as const;
  const quantized = new Map([
    ['a', { format, shape: [4, 4] as const, parts: { codes: 'a.weight', scale: 'a.weight.absmax' }, bias: 'a.bias' }],
    ['b', { format, shape: [4, 4] as const, parts: { codes: 'b.W_q', scale: 'b.scale' } }],
  ]);
  const footprint = memoryFootprint({
    source: { label: 'x', entries, read: () => Promise.reject(), async [Symbol.asyncDispose]() {} },
    quantized,
  });
  expect(footprint).toBe(80 + 8 + 16 + 12 + 16);
});
