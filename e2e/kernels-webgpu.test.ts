// A real model on the WebGPU backend, on the adapter of this machine: the same text as the reference.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { int8, nf4 } from '@lowbit/bnb';
import { type BackendProvider, createRuntime, type Quantizer, referenceBackend, toFloat32 } from '@lowbit/core';
import { higgs } from '@lowbit/higgs';
import { hqq } from '@lowbit/hqq';
import { openCheckpoint, quantizeCheckpoint } from '@lowbit/hub';
import { webgpu } from '@lowbit/kernels-webgpu';
import { llama, loadModel } from '@lowbit/models';
import { afterAll, describe, expect, it } from 'vitest';
import * as golden from '../fixtures/golden.ts';
import { needs } from '../fixtures/needs.ts';
import { noWebGpu, TEST_OPTIONS } from '../fixtures/webgpu.ts';
import { relativeDifference } from './families/run.ts';

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

// Windows and softcaps; experts. Every model brings kernels of its own, which SwiftShader compiles for seconds: two of them are run here.
describe('golden models on the WebGPU backend', () => {
  it.for(['gemma2', 'mixtral-published'])('%s: logits within 1e-3 of transformers, greedy ids equal', async (name, context) => {
    needs(context, 'webgpu', missing === undefined, missing ?? '');
    const expected = golden.goldenTensors(`models/${name}/expected.safetensors`);
    const ids = (key: string): number[] => Array.from(toFloat32(expected.get(key)!));
    await using runtime = await createRuntime({ backends: [webgpu(TEST_OPTIONS)] });
    await using checkpoint = await openCheckpoint(golden.goldenPath(`models/${name}`));
    await using model = await loadModel(checkpoint, { runtime });
    const prompt = ids('input_ids');
    expect(relativeDifference(await model.logits(prompt), expected.get('logits')!)).toBeLessThanOrEqual(1e-3);
    const want = ids('generated').slice(0, 8);
    expect((await model.generate({ ids: prompt, maxTokens: want.length, temperature: 0, ignoreEos: true })).ids).toEqual(want);
  });
});
