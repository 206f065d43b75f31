// A model whose float weights are stored as [in, out], as GPT-2's: its bitsandbytes files hold [out, in], like those of the turned weights.

import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { int8, nf4 } from '@lowbit/bnb';
import { castFloat, dequantize, type HostTensor, type ModelAdapter, quantize, transpose } from '@lowbit/core';
import { createSafetensorsSink, openCheckpoint, quantizeCheckpoint } from '@lowbit/hub';
import { seededTensor } from '@lowbit/testing';
import { afterAll, beforeAll, expect, it } from 'vitest';

const shape = [96, 32] as const; // [out, in]
const path = 'transformer.h.0.attn.c_attn';
const stored = castFloat(seededTensor(1, [shape[1], shape[0]], 0.1), 'bf16');
const bias = castFloat(seededTensor(2, [shape[0]]), 'bf16');

const conv1d: ModelAdapter = {
  spec: 1,
  modelTypes: ['toy-gpt2'],
  linears: () => [{ path, tag: 'h.0.attn.c_attn', layer: 0, shape, bias: true, transposed: true }],
  describe: () => Promise.reject(new Error('not run here')),
};

let dir = '';
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'lowbit-conv1d-'));
  const tensors: Record<string, HostTensor> = { [`${path}.weight`]: stored, [`${path}.bias`]: bias };
  const sink = await createSafetensorsSink(join(dir, 'float'), { fingerprint: 'test' });
  await sink.reserve(new Map(Object.entries(tensors)), { format: 'pt' });
  for (const [name, { data }] of Object.entries(tensors)) await sink.write(name, 0, data);
  await sink.close();
  await writeFile(join(dir, 'float', 'config.json'), JSON.stringify({ model_type: 'toy-gpt2' }));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

it.each([
  ['nf4', nf4({ doubleQuant: true })],
  ['int8', int8()],
])('%s', async (name, quantizer) => {
  await using source = await openCheckpoint(join(dir, 'float'));
  await quantizeCheckpoint(source, { out: join(dir, name), quantizer, adapters: [conv1d] });
  await using checkpoint = await openCheckpoint(join(dir, name));
  const q = await checkpoint.linear(path);
  expect(q.shape).toEqual(shape);
  const byHand = await quantize(transpose(stored), quantizer);
  expect(dequantize(q)).toEqual(dequantize(byHand));
  expect((await checkpoint.tensor(`${path}.bias`)).data).toEqual(bias.data);
  const { quantization_config } = JSON.parse(await readFile(join(dir, name, 'config.json'), 'utf8'));
  expect(quantization_config.quant_method).toBe('bitsandbytes');
});
