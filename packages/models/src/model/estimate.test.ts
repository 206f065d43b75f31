import { createRuntime, type Format, type Runtime, referenceBackend } from '@lowbit/core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import * as golden from '../../../../fixtures/golden.ts';
import { goldenContents, memoryCheckpoint } from '../testing/memory-checkpoint.ts';
import { estimateMemory } from './estimate.ts';
import { loadModel } from './load-model.ts';

const checkpoint = memoryCheckpoint(goldenContents(golden, 'perplexity'));
const code = (value: string) => expect.objectContaining({ code: value });

let runtime: Runtime;
beforeAll(async () => {
  runtime = await createRuntime({ backends: [referenceBackend()] });
});
afterAll(() => runtime[Symbol.asyncDispose]());

describe('estimateMemory', () => {
  test.each([{}, { dtype: 'bf16' as const }])('is what the model counts: %j', async (options) => {
    const contextLength = 96;
    const estimate = await estimateMemory(checkpoint, { runtime, contextLength, ...options });
    await using model = await loadModel(checkpoint, { runtime, contextLength, ...options });
    expect(estimate).toMatchObject({ backend: 'reference', contextLength, sequences: 1, weights: model.memory().weights });
    const ids = Array.from({ length: contextLength }, (_, i) => i + 5);
    for await (const _ of model.logitRows(ids)) expect(model.memory().kvCache / estimate.kvCache).toBeCloseTo(1, 1);
    expect(estimate.total).toBe(estimate.weights + estimate.kvCache + estimate.activations);
  });

  test('of several texts, of other formats, of longer steps', async () => {
    const plain = await estimateMemory(checkpoint, { runtime, contextLength: 64 });
    const three = await estimateMemory(checkpoint, { runtime, contextLength: 64, sequences: 3 });
    expect(three.kvCache).toBe(3 * plain.kvCache);
    expect(three.weights).toBe(plain.weights);
    const four: Format = { kind: 'affine', levels: 16, group: null, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' };
    const formatOf = (path: string): Format | undefined => (path.endsWith('up_proj') ? four : undefined);
    const smaller = await estimateMemory(checkpoint, { runtime, contextLength: 64, formatOf });
    expect(smaller.weights).toBeLessThan(plain.weights);
    const short = await estimateMemory(checkpoint, { runtime, contextLength: 64, prefillChunk: 1 });
    expect(short.activations).toBeLessThan(plain.activations / 20);
  });

  test('a verdict for what is available', async () => {
    const { total } = await estimateMemory(checkpoint, { runtime, contextLength: 64 });
    const verdicts = [total * 2, total / 0.9, total, total - 1].map(
      async (available) => (await estimateMemory(checkpoint, { runtime, contextLength: 64, available })).verdict,
    );
    expect(await Promise.all(verdicts)).toEqual(['fits', 'tight', 'tight', 'no']);
  });

  test('refuses what loadModel refuses', async () => {
    await expect(estimateMemory(checkpoint, { runtime, contextLength: 10 ** 6 })).rejects.toThrow(code('ERR_LIMIT'));
    for (const bad of [{ sequences: 0 }, { prefillChunk: 1.5 }, { contextLength: 0 }, { context: 5 } as object]) {
      await expect(estimateMemory(checkpoint, { runtime, ...bad })).rejects.toThrow(code('ERR_BAD_ARGUMENT'));
    }
  });
});
