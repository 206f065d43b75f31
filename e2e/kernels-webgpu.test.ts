// A real model on the WebGPU backend, on the adapter of this machine: the same text as the reference.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { int8, nf4 } from '@lowbit/bnb';
import { type BackendProvider, createRuntime, type Quantizer, referenceBackend } from '@lowbit/core';
import { higgs } from '@lowbit/higgs';
import { hqq } from '@lowbit/hqq';
import { openCheckpoint, quantizeCheckpoint } from '@lowbit/hub';
import { webgpu } from '@lowbit/kernels-webgpu';
import { llama, loadModel } from '@lowbit/models';
import { afterAll, describe, expect, it } from 'vitest';
import { needs } from '../fixtures/needs.ts';
import { noWebGpu, TEST_OPTIONS } from '../fixtures/webgpu.ts';

const folder = fileURLToPath(new URL('../examples/tiny-llama', import.meta.url));
const out = mkdtempSync(join(tmpdir(), 'lowbit-kernels-webgpu-'));
afterAll(() => rmSync(out, { recursive: true, force: true }));
const missing = await noWebGpu();

/** Greedy token ids of a checkpoint on a backend. */
async function greedy(path: string, backend: BackendProvider): Promise<readonly number[]> {
  await using runtime = await createRuntime({ backends: [backend] });
  await using checkpoint = await openCheckpoint(path);
  await using model = await loadModel(checkpoint, { runtime });
  const { ids } = await model.generate({ prompt: 'It was a fine morning, and', maxTokens: 6, temperature: 0 });
  return ids;
}

describe('tiny-llama on the WebGPU backend generates what the reference generates', () => {
  it.for<readonly [string, (() => Quantizer) | undefined]>([
    ['dense', undefined],
    ['hqq4', () => hqq()],
    ['hqq3, axis 0', () => hqq({ bits: 3, axis: 0 })],
    ['nf4 doubly quantized', () => nf4({ doubleQuant: true })],
    ['int8', () => int8()],
    ['higgs4', () => higgs()],
  ])('%s', async ([name, quantizer], context) => {
    needs(context, 'webgpu', missing === undefined, missing ?? '');
    const path = quantizer ? join(out, name) : folder;
    if (quantizer) {
      await using source = await openCheckpoint(folder);
      await quantizeCheckpoint(source, { out: path, quantizer: quantizer(), adapters: [llama] });
    }
    expect(await greedy(path, webgpu(TEST_OPTIONS))).toEqual(await greedy(path, referenceBackend()));
  });
});
