// Every layer of the folders that hqq and transformers wrote, opened and dequantized: the bits that plain Python, without any library, makes of them.

import { createHash } from 'node:crypto';
import { dequantize } from '@lowbit/core';
import { expect, test } from 'vitest';
import { goldenJson, goldenPath } from '../../../../fixtures/golden.ts';
import { openCheckpoint } from '../checkpoint.node.ts';

const DTYPES = { 'torch.float16': 'f16', 'torch.bfloat16': 'bf16', 'torch.float32': 'f32' } as const;
type Layers = Readonly<Record<string, readonly [dtype: keyof typeof DTYPES, sha256: string]>>;

const folders = Object.entries(goldenJson<Readonly<Record<string, Layers>>>('hqq/dequantized.json'));

test.each(folders)('%s', async (folder, layers) => {
  await using checkpoint = await openCheckpoint(goldenPath(`hqq/${folder}`));
  expect([...checkpoint.quantized.keys()].sort()).toEqual(Object.keys(layers).sort());
  for (const [path, [dtype, sha256]] of Object.entries(layers)) {
    const { data } = dequantize(await checkpoint.linear(path), { dtype: DTYPES[dtype] });
    expect(createHash('sha256').update(data).digest('hex'), path).toBe(sha256);
  }
});

test('are four folders with 52 layers', () => {
  expect(folders.map(([folder, layers]) => [folder, Object.keys(layers).length])).toEqual([
    ['checkpoints/b2-g16-a0-f16', 14],
    ['checkpoints-hf4/uniform-b4-g64', 14],
    ['checkpoints-hf4/per-tag', 14],
    ['checkpoints/dynamic-bf16', 10],
  ]);
});
