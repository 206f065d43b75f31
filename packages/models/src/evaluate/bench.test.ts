import { createRuntime, type Runtime, referenceBackend } from '@lowbit/core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import * as golden from '../../../../fixtures/golden.ts';
import type { LanguageModel } from '../model/language-model.ts';
import { loadModel } from '../model/load-model.ts';
import { goldenContents, memoryCheckpoint } from '../testing/memory-checkpoint.ts';
import { benchModel } from './bench.ts';

/** What the backend was asked to step: for each step how many tokens, at which cached length, and how many rows back. */
const steps: { tokens: number; cached: number; wanted: number | undefined }[] = [];
let runtime: Runtime;
let model: LanguageModel;
beforeAll(async () => {
  const plain = referenceBackend();
  runtime = await createRuntime({
    backends: [
      {
        ...plain,
        async open(options) {
          const backend = await plain.open(options);
          const compile: typeof backend.compile = async (...args) => {
            const executable = await backend.compile(...args);
            const step: typeof executable.step = (batch, stepOptions) => {
              for (const { id, tokens, wanted } of batch)
                steps.push({ tokens: tokens.length, cached: executable.length(id), wanted: wanted?.length });
              return executable.step(batch, stepOptions);
            };
            return new Proxy(executable, {
              get: (target, key) => (key === 'step' ? step : bound(target, key)),
            });
          };
          return new Proxy(backend, { get: (target, key) => (key === 'compile' ? compile : bound(target, key)) });
        },
      },
    ],
  });
  model = await loadModel(memoryCheckpoint(goldenContents(golden, 'perplexity')), { runtime, contextLength: 64, prefillChunk: 8 });
});
afterAll(async () => {
  await model[Symbol.asyncDispose]();
  await runtime[Symbol.asyncDispose]();
});

function bound(target: object, key: string | symbol): unknown {
  const value: unknown = Reflect.get(target, key);
  return typeof value === 'function' ? value.bind(target) : value;
}

test('reads prompts in chunks, writes token by token, after a run to warm up', async () => {
  steps.length = 0;
  const events: number[] = [];
  const results = await benchModel(model, { prompt: 20, generate: 3, repetitions: 2, onProgress: ({ done }) => events.push(done) });
  const prompt = [
    { tokens: 8, cached: 0, wanted: 0 },
    { tokens: 8, cached: 8, wanted: 0 },
    { tokens: 4, cached: 16, wanted: 1 },
  ];
  const one = (cached: number) => ({ tokens: 1, cached, wanted: 1 });
  expect(steps).toEqual([...prompt, ...prompt, ...prompt, one(0), ...[0, 1, 2].map(one), ...[0, 1, 2].map(one)]);
  expect(results.map(({ test: name, prompt: read, generate }) => [name, read, generate])).toEqual([
    ['pp20', 20, 0],
    ['tg3', 0, 3],
  ]);
  expect(events).toEqual([20, 40, 43, 46]);
  for (const { milliseconds, tokensPerSecond, prompt: read, generate } of results) {
    const { samples, mean, stddev } = tokensPerSecond;
    expect(samples).toEqual(milliseconds.map((ms) => (1000 * (read + generate)) / ms));
    expect(mean).toBeCloseTo((samples[0]! + samples[1]!) / 2, 9);
    expect(stddev).toBeCloseTo(Math.abs(samples[0]! - samples[1]!) / Math.SQRT2, 6);
  }
});

test('fills the cache once per depth and goes on from copies of it', async () => {
  steps.length = 0;
  const results = await benchModel(model, {
    ...{ prompt: [4, 0], generate: 0, promptAndGenerate: [[2, 1]], depth: [0, 10] },
    ...{ repetitions: 1, warmup: false },
  });
  expect(results.map((result) => result.test)).toEqual(['pp4', 'pp2+tg1', 'pp4 @ d10', 'pp2+tg1 @ d10']);
  expect(steps).toEqual([
    { tokens: 4, cached: 0, wanted: 1 },
    { tokens: 2, cached: 0, wanted: 1 },
    { tokens: 1, cached: 2, wanted: 1 },
    ...[8, 2].map((tokens, i) => ({ tokens, cached: 8 * i, wanted: i })),
    { tokens: 4, cached: 10, wanted: 1 },
    ...[8, 2].map((tokens, i) => ({ tokens, cached: 8 * i, wanted: i })),
    { tokens: 2, cached: 10, wanted: 1 },
    { tokens: 1, cached: 12, wanted: 1 },
  ]);
  expect(results[0]!.tokensPerSecond.stddev).toBe(0);
  expect(model.memory().kvCache).toBe(0);
});

test.each([
  [{ prompt: -1 }, 'ERR_BAD_ARGUMENT', 'prompt is -1'],
  [{ generate: 1.5 }, 'ERR_BAD_ARGUMENT', 'generate is 1.5'],
  [{ repetitions: 0 }, 'ERR_BAD_ARGUMENT', 'repetitions is 0'],
  [{ prompt: 0, generate: 0 }, 'ERR_BAD_ARGUMENT', 'no test'],
  [{ prompt: 65 }, 'ERR_LIMIT', 'pp65 takes 65 tokens, more than the 64'],
  [{ prompt: 0, generate: 60, depth: 5 }, 'ERR_LIMIT', 'tg60 @ d5'],
  [{ promptAndGenerate: [[0, 1]] as [number, number][] }, 'ERR_BAD_ARGUMENT', 'promptAndGenerate is 0'],
  [{ tokens: 5 }, 'ERR_BAD_ARGUMENT', 'tokens'],
])('refuses %j', async (options, code, message) => {
  await expect(benchModel(model, options as object)).rejects.toThrow(
    expect.objectContaining({ code, message: expect.stringContaining(message) }),
  );
});

test('an abort ends it with its reason, and nothing is left', async () => {
  const controller = new AbortController();
  const reason = new Error('enough');
  const running = benchModel(model, {
    ...{ prompt: 16, generate: 4, depth: 8, repetitions: 100 },
    signal: controller.signal,
    onProgress: () => controller.abort(reason),
  });
  await expect(running).rejects.toBe(reason);
  expect(model.memory().kvCache).toBe(0);
  await expect(benchModel({} as LanguageModel, {})).rejects.toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
});
