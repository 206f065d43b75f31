// Forms of hqq layers that no other test writes to files: codes shown as floats, and one grid for a whole weight.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createRuntime, quantize, referenceBackend } from '@lowbit/core';
import { HqqLinear, type HqqOptions, hqq } from '@lowbit/hqq';
import { openCheckpoint, quantizeCheckpoint } from '@lowbit/hub';
import { llama } from '@lowbit/models';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { goldenPath } from '../fixtures/golden.ts';

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'lowbit-forms-'));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

const path = 'model.layers.0.mlp.up_proj';

it.each<readonly [string, HqqOptions]>([
  ['float view', { viewAsFloat: true }],
  ['float view of 3 bits', { viewAsFloat: true, bits: 3 }],
  ['one grid', { channelWise: false, bits: 8 }],
  ['one grid as floats', { channelWise: false, viewAsFloat: true }],
])('%s', async (name, options) => {
  const quantizer = hqq(options);
  await using source = await openCheckpoint(goldenPath('bnb/checkpoints/float'));
  const weight = await source.tensor(`${path}.weight`);
  const out = join(dir, name);
  await quantizeCheckpoint(source, { out, quantizer, adapters: [llama], dtype: 'f16' });

  await using written = await openCheckpoint(out);
  const stored = await written.linear(path);
  expect(stored).toEqual(await quantize(weight, quantizer, { metaDtype: 'f16' }));

  // The same 19 tensors as the layer's own state dict, and a layer can be made of them.
  await using runtime = await createRuntime({ backends: [referenceBackend()] });
  using layer = await HqqLinear.create({ weight }, quantizer, { runtime });
  const prefix = `${path}.`;
  const names = [...written.source.entries.keys()].filter((key) => key.startsWith(prefix));
  const tensors = Object.fromEntries(
    await Promise.all(names.map(async (key) => [key.slice(prefix.length), await written.tensor(key)] as const)),
  );
  const state = layer.stateDict();
  expect(Object.keys(tensors).toSorted()).toEqual(Object.keys(state).toSorted());
  for (const [key, { dtype, shape, data }] of Object.entries(state)) {
    expect([tensors[key]!.dtype, tensors[key]!.shape], key).toEqual([dtype, shape]);
    expect(Buffer.compare(tensors[key]!.data, data), key).toBe(0);
  }
  expect(state.W_q!.dtype).toBe(options.viewAsFloat ? 'f16' : 'u8');
  using again = await HqqLinear.fromStateDict(tensors, { runtime });
  expect(await again.dequantize()).toEqual(await layer.dequantize());
});
