import { spawnSync } from 'node:child_process';
import { truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DTYPE_BYTES, elementCount } from '@lowbit/core';
import { expect, test } from 'vitest';
import { goldenPath, goldenTensors } from '../../../../fixtures/golden.ts';
import { failure, folderOf, rawFile, temporaryFolder } from '../testing.node.ts';
import { openSafetensors, readSafetensorsHeader } from './source.node.ts';

test.each(['hqq/linear.safetensors', 'hqq/checkpoints-hf4/per-tag/model.safetensors', 'models/llama-gqa/expected.safetensors'])(
  '%s: all tensors equal the oracle, whole and in ranges',
  async (name) => {
    const expected = goldenTensors(name);
    await using source = await openSafetensors(goldenPath(name));
    expect([...source.entries.keys()].sort()).toEqual([...expected.keys()].sort());
    for (const [tensor, { dtype, shape, data }] of expected) {
      const whole = await source.read(tensor);
      expect(whole.dtype).toBe(dtype);
      expect(whole.shape).toEqual(shape);
      expect(Buffer.compare(whole.data, data)).toBe(0);
      const count = elementCount(shape);
      const from = Math.floor(count / 3);
      const to = Math.ceil((2 * count) / 3);
      const part = await source.read(tensor, { range: [from, to] });
      expect(part.shape).toEqual([to - from]);
      expect(Buffer.compare(part.data, data.subarray(from * DTYPE_BYTES[dtype], to * DTYPE_BYTES[dtype]))).toBe(0);
    }
  },
);

test('several files are one source; a tensor in two of them is an error', async () => {
  const shards = [1, 2, 3].map((n) => goldenPath(`models/llama-sharded/model-0000${n}-of-00003.safetensors`));
  await using source = await openSafetensors(shards, { label: 'three shards' });
  expect(source.entries.size).toBe(21);
  expect(source.label).toBe('three shards');
  expect(source.files.map(({ path }) => path)).toEqual(shards);
  const twice = await failure(() => openSafetensors([shards[0]!, shards[1]!, shards[0]!]));
  expect(twice.code).toBe('ERR_BAD_SAFETENSORS');
  expect(twice.message).toMatch(/also in/);
});

test('reads at once do not disturb each other', async () => {
  const name = 'hqq/linear.safetensors';
  const expected = goldenTensors(name);
  await using source = await openSafetensors(goldenPath(name));
  await Promise.all(
    [...expected].map(async ([tensor, { data }]) => expect(Buffer.compare((await source.read(tensor)).data, data)).toBe(0)),
  );
});

test('what cannot be read', async () => {
  await using folder = await temporaryFolder();
  const file = join(folder.path, 'f.safetensors');
  await writeFile(file, rawFile('{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}', 16));
  const source = await openSafetensors(file);
  expect((await failure(() => source.read('b'))).code).toBe('ERR_TENSOR_MISMATCH');
  expect((await failure(() => source.read('constructor'))).code).toBe('ERR_TENSOR_MISMATCH');
  for (const range of [
    [-1, 2],
    [0, 5],
    [3, 2],
    [0.5, 1],
    [0, Number.NaN],
  ] as const) {
    expect((await failure(() => source.read('a', { range }))).code).toBe('ERR_BAD_ARGUMENT');
  }
  expect((await source.read('a', { range: [4, 4] })).data.byteLength).toBe(0);
  await expect(source.read('a', { signal: AbortSignal.abort(new Error('enough')) })).rejects.toThrow('enough');

  await truncate(file, 70);
  const shorter = await failure(() => source.read('a'));
  expect(shorter.code).toBe('ERR_BAD_SAFETENSORS');
  expect(shorter.message).toMatch(/shorter while it was open/);
  await source[Symbol.asyncDispose]();
  await source[Symbol.asyncDispose]();
  expect((await failure(() => source.read('a'))).code).toBe('ERR_DISPOSED');
});

test('files that are not there, not files, or not safetensors', async () => {
  await using folder = await temporaryFolder();
  await folderOf(folder.path, { 'empty.safetensors': '', 'text.safetensors': 'this is no safetensors file at all', 'd/x': '' });
  expect((await failure(() => openSafetensors(join(folder.path, 'none.safetensors')))).code).toBe('ERR_NOT_FOUND');
  expect((await failure(() => openSafetensors(join(folder.path, 'd')))).code).toBe('ERR_IO');
  expect((await failure(() => openSafetensors(join(folder.path, 'empty.safetensors', 'x')))).code).toBe('ERR_IO');
  if (spawnSync('mkfifo', [join(folder.path, 'pipe')]).status === 0) {
    expect((await failure(() => openSafetensors(join(folder.path, 'pipe')))).code).toBe('ERR_IO');
  }
  for (const name of ['empty.safetensors', 'text.safetensors']) {
    const error = await failure(() => readSafetensorsHeader(join(folder.path, name)));
    expect(error.code).toBe('ERR_BAD_SAFETENSORS');
    expect(error.message).toContain(name);
  }
});
