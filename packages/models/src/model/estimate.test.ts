import { createRuntime, type Format, type Program, type Runtime, referenceBackend, type StepBytes, type StepSize } from '@lowbit/core';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
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

/** The runtime, but for the backend that it chooses. */
function selecting(backend: object): Runtime {
  return { codecs: [], backends: [], select: async () => backend, load() {}, backend() {}, explain() {} } as unknown as Runtime;
}

describe('estimateMemory', () => {
  test.each([{}, { dtype: 'bf16' as const }])('is what the model counts: %j', async (options) => {
    const contextLength = 96;
    const estimate = await estimateMemory(checkpoint, { runtime, contextLength, ...options });
    await using model = await loadModel(checkpoint, { runtime, contextLength, ...options });
    expect(estimate).toMatchObject({ backend: 'reference', contextLength, sequences: 1, weights: model.memory().weights });
    const ids = Array.from({ length: contextLength }, (_, i) => i + 5);
    let kvCache = 0;
    for await (const _ of model.logitRows(ids)) ({ kvCache } = model.memory());
    expect(estimate.kvCache).toBe(kvCache);
    expect(estimate.total).toBe(estimate.weights + estimate.constants + estimate.kvCache + estimate.activations);
    expect(estimate.counted).toBe(false);
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

  test('what the backend says of its own, a limit of its device, and one that tells no memory', async () => {
    const backend = await runtime.backend();
    const { name, device } = backend;
    const supports = backend.supports.bind(backend);
    const of = (more: object): Runtime => selecting({ name, device, supports, ...more });
    const asked: StepSize[] = [];
    const measure = (_: Program, linears: readonly unknown[], size: StepSize): StepBytes => {
      expect(linears.length).toBeGreaterThan(0);
      asked.push(size);
      return { constants: 1, scratch: 1000 * size.sequences + size.tokens, kept: 7, cache: 10 * size.sequences };
    };
    const options = { contextLength: 64, prefillChunk: 32 };
    const told = await estimateMemory(checkpoint, { ...options, runtime: of({ measure }), sequences: 3 });
    expect(told).toMatchObject({ counted: true, constants: 1, kvCache: 30, activations: 3001, total: told.weights + 1 + 30 + 3001 });
    const one = { contextLength: 64, outputs: 1, encoder: 0 };
    expect(asked).toContainEqual({ ...one, sequences: 1, tokens: 32 });
    expect(asked).toContainEqual({ ...one, sequences: 3, tokens: 1 });
    const refused = { measure: (...args: Parameters<typeof measure>) => ({ ...measure(...args), refused: 'a buffer is too large' }) };
    const never = await estimateMemory(checkpoint, { ...options, runtime: of(refused) });
    expect(never).toMatchObject({ verdict: 'no', reason: 'a buffer is too large' });
    const silent = of({ device: { label: 'GPU', memory: 0, features: [] } });
    expect(await estimateMemory(checkpoint, { ...options, runtime: silent })).toMatchObject({ verdict: 'unknown' });
    expect(await estimateMemory(checkpoint, { ...options, runtime: silent, available: 1e9 })).toMatchObject({
      verdict: 'fits',
      available: 1e9,
    });
    vi.stubGlobal('navigator', { deviceMemory: 8 }); // of a browser
    try {
      expect(await estimateMemory(checkpoint, { ...options, runtime: silent })).toMatchObject({ verdict: 'fits', available: 2 ** 33 });
    } finally {
      vi.unstubAllGlobals();
    }
  });

  test('padding is what weights have more than their formats', async () => {
    const device = { label: 'b', memory: 1, features: [] };
    const padding = selecting({ name: 'b', device, supports: () => ({ level: 'repack', bytes: 1e6 }) });
    const plain = await estimateMemory(checkpoint, { runtime, contextLength: 8 });
    expect(plain.packed).toBe(plain.weights);
    const padded = await estimateMemory(checkpoint, { runtime: padding, contextLength: 8 });
    expect(padded.packed).toBe(plain.packed);
    expect(padded.weights).toBeGreaterThan(padded.packed);
  });

  test('refuses what loadModel refuses', async () => {
    await expect(estimateMemory(checkpoint, { runtime, contextLength: 10 ** 6 })).rejects.toThrow(code('ERR_LIMIT'));
    for (const bad of [{ sequences: 0 }, { prefillChunk: 1.5 }, { contextLength: 0 }, { context: 5 } as object]) {
      await expect(estimateMemory(checkpoint, { runtime, ...bad })).rejects.toThrow(code('ERR_BAD_ARGUMENT'));
    }
  });
});
