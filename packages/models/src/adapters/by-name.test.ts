import type { DType, Entries, TensorSpec } from '@lowbit/core';
import { expect, it } from 'vitest';
import { byName } from './by-name.ts';

const entries = (tensors: Readonly<Record<string, readonly [DType, ...number[]]>>): Entries =>
  new Map(Object.entries(tensors).map(([name, [dtype, ...shape]]) => [name, { dtype, shape } satisfies TensorSpec]));

it('finds linears by names and shapes', () => {
  const sites = byName('other').linears(
    {},
    entries({
      'backbone.embed_tokens.weight': ['bf16', 100, 8],
      'backbone.position_embeddings.weight': ['bf16', 16, 8],
      'backbone.blocks.0.norm.weight': ['bf16', 8],
      'backbone.blocks.0.mixer.in_proj.weight': ['bf16', 32, 8],
      'backbone.blocks.0.mixer.in_proj.bias': ['bf16', 32],
      'backbone.blocks.0.mixer.conv.weight': ['bf16', 8, 1, 4],
      'backbone.blocks.0.moe.gate.weight': ['f32', 4, 8],
      'backbone.blocks.0.moe.experts.3.up.weight': ['f16', 16, 8],
      'backbone.blocks.0.mixer.mask': ['bool', 8, 8],
      'backbone.blocks.1.mixer.in_proj.weight': ['i8', 32, 8],
      'lm_head.weight': ['bf16', 100, 8],
    }),
  );
  expect(sites.map(({ path, layer, bias, keep }) => [path, layer, bias, keep === true])).toEqual([
    ['backbone.blocks.0.mixer.in_proj', 0, true, false],
    ['backbone.blocks.0.moe.gate', 0, false, true],
    ['backbone.blocks.0.moe.experts.3.up', 0, false, false],
    ['lm_head', -1, false, true],
  ]);
});

it('runs nothing', async () => {
  await expect(byName('other').describe({}, { entries: new Map(), read: () => expect.unreachable() })).rejects.toMatchObject({
    code: 'ERR_UNSUPPORTED_ARCH',
    message: expect.stringContaining('"other"'),
  });
});
