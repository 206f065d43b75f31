import { readFileSync } from 'node:fs';
import type { TensorSpec } from '@lowbit/core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { goldenPath, goldenTensors } from '../../../../fixtures/golden.ts';
import { failure } from '../testing.node.ts';
import { PT_METADATA, planFiles, planSafetensors, planShards } from './shards.ts';

test('the rule of huggingface_hub', () => {
  const shards = planShards(
    [
      ['a', 4],
      ['b', 6],
      ['c', 1],
      ['huge', 11],
      ['d', 9],
      ['e', 1],
      ['f', 10],
    ],
    10,
  );
  // c and d share a file although huge came between them
  expect(shards).toEqual([['a', 'b'], ['huge'], ['c', 'd'], ['e'], ['f']]);
  expect(planShards([], 10)).toEqual([[]]);
  expect(
    planShards(
      [
        ['a', 0],
        ['b', 10],
      ],
      10,
    ),
  ).toEqual([['a', 'b']]);
});

test('shardSize must be a number of bytes', async () => {
  for (const size of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
    expect((await failure(() => planShards([['a', 1]], size))).code).toBe('ERR_BAD_ARGUMENT');
  }
});

test('llama-sharded: names, split, index and headers as transformers wrote them', () => {
  const shards = [1, 2, 3].map((n) => `models/llama-sharded/model-0000${n}-of-00003.safetensors`);
  const all = new Map(shards.flatMap((shard) => [...goldenTensors(shard)]));
  const layer = (n: number) =>
    [
      'self_attn.q_proj',
      'self_attn.k_proj',
      'self_attn.v_proj',
      'self_attn.o_proj',
      'mlp.gate_proj',
      'mlp.up_proj',
      'mlp.down_proj',
      'input_layernorm',
      'post_attention_layernorm',
    ].map((part) => `model.layers.${n}.${part}.weight`);
  const order = ['model.embed_tokens.weight', ...layer(0), ...layer(1), 'model.norm.weight', 'lm_head.weight'];
  const tensors = new Map(order.map((name): [string, TensorSpec] => [name, all.get(name)!]));
  expect(tensors.size).toBe(all.size);
  const plan = planSafetensors(tensors, PT_METADATA, { shardSize: Math.floor(168576 / 2.5), totalParameters: 84288 });
  expect(plan.files.map(({ name }) => `models/llama-sharded/${name}`)).toEqual(shards);
  for (const { name, layout } of plan.files) {
    const golden = readFileSync(goldenPath(`models/llama-sharded/${name}`));
    expect(golden.byteLength).toBe(layout.size);
    expect(Buffer.compare(golden.subarray(0, layout.header.byteLength), layout.header)).toBe(0);
  }
  expect(Buffer.from(plan.index!).toString()).toBe(readFileSync(goldenPath('models/llama-sharded/model.safetensors.index.json'), 'utf8'));
});

test('planFiles lists every file, and refuses a name twice', async () => {
  const tensors = new Map<string, TensorSpec>([
    ['a', { dtype: 'f32', shape: [4] }],
    ['b', { dtype: 'u8', shape: [3] }],
  ]);
  expect(planFiles(tensors, { files: [['config.json', 12]] })).toEqual([
    { name: 'model.safetensors', bytes: planSafetensors(tensors, PT_METADATA).files[0]!.layout.size },
    { name: 'config.json', bytes: 12 },
  ]);
  expect(planFiles(tensors, { shardSize: 16 }).map(({ name }) => name)).toEqual([
    'model-00001-of-00002.safetensors',
    'model-00002-of-00002.safetensors',
    'model.safetensors.index.json',
  ]);
  expect((await failure(() => planFiles(tensors, { files: [['model.safetensors', 1]] }))).code).toBe('ERR_BAD_ARGUMENT');
});

test('shards given: empty ones are counted and left out; they must be a division of the tensors', async () => {
  const tensors = new Map(['a', 'b'].map((name) => [name, { dtype: 'u8', shape: [3] } satisfies TensorSpec]));
  const names = (shards: readonly (readonly string[])[]) => planFiles(tensors, { shards }).map(({ name }) => name);
  expect(names([['b', 'a']])).toEqual(['model.safetensors']);
  expect(names([[], ['b', 'a'], []])).toEqual(['model-00002-of-00003.safetensors', 'model.safetensors.index.json']);
  for (const shards of [[], [['a']], [['a', 'b', 'c']], [['a', 'b'], ['a']]]) {
    expect((await failure(() => planFiles(tensors, { shards }))).code).toBe('ERR_BAD_ARGUMENT');
  }
  expect((await failure(() => planFiles(tensors, { shards: [['a', 'b']], shardSize: 4 }))).message).toMatch(/shardSize/);
});

test('every tensor is in one shard, and no shard is larger than asked unless it must be', () => {
  fc.assert(
    fc.property(fc.array(fc.nat(20)), fc.integer({ min: 1, max: 30 }), (sizes, limit) => {
      const tensors = sizes.map((bytes, i) => [`t${i}`, bytes] as const);
      const shards = planShards(tensors, limit);
      expect(shards.flat().sort()).toEqual(tensors.map(([name]) => name).sort());
      for (const names of shards) {
        const bytes = names.reduce((sum, name) => sum + sizes[Number(name.slice(1))]!, 0);
        expect(bytes <= limit || names.length === 1).toBe(true);
      }
    }),
  );
});
