// Batches and prompt caches: the same texts as one by one, and everything given back.

import { createRuntime, type Runtime, referenceBackend } from '@lowbit/core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import * as golden from '../../../../fixtures/golden.ts';
import { goldenContents, memoryCheckpoint } from '../testing/memory-checkpoint.ts';
import type { BatchRequest } from './batch.ts';
import type { GenerateOptions } from './generate-options.ts';
import type { LanguageModel } from './language-model.ts';
import { loadModel } from './load-model.ts';
import { guess } from './prompt-lookup.ts';

const files = Object.fromEntries(
  ['tokenizer.json', 'tokenizer_config.json'].map((name) => [name, JSON.stringify(golden.goldenJson(`models/tokenizer-llama3/${name}`))]),
);
const contents = { ...goldenContents(golden, 'perplexity'), files };

let runtime: Runtime;
let model: LanguageModel;
beforeAll(async () => {
  runtime = await createRuntime({ backends: [referenceBackend()] });
  model = await loadModel(memoryCheckpoint(contents), { runtime, contextLength: 96, maxSequences: 4 });
});
afterAll(async () => {
  expect(model.memory().kvCache).toBe(0);
  await model[Symbol.asyncDispose]();
  await runtime[Symbol.asyncDispose]();
});

const code = (value: string) => expect.objectContaining({ code: value });
const prompt = 'The small river carries';

describe('a batch', () => {
  const requests: readonly BatchRequest[] = [
    { prompt, temperature: 0, maxTokens: 12, ignoreEos: true },
    { prompt: 'A', temperature: 1.2, seed: 3, maxTokens: 20, ignoreEos: true },
    { prompt: 'The small', temperature: 0.8, topK: 5, seed: 4, maxTokens: 3, ignoreEos: true, presencePenalty: 0.5 },
    { prompt: 'One more', temperature: 0, maxTokens: 1, ignoreEos: true, logitBias: { 5: 3 } },
    { prompt: 'and another', temperature: 0, maxTokens: 7, ignoreEos: true, repetitionPenalty: 1.3 },
    { prompt, temperature: 0, maxTokens: 9, ignoreEos: true, stop: 'e' },
  ];

  test.each([1, 2, 3, 4])('%d at a time give the texts that generate gives', async (atOnce) => {
    const texts: number[] = [];
    const results = await model.generateBatch(requests, {
      atOnce,
      onProgress: ({ done, total, unit }) => {
        expect([total, unit]).toEqual([6, 'texts']);
        texts.push(done);
      },
    });
    expect(texts).toEqual([1, 2, 3, 4, 5, 6]);
    for (const [i, request] of requests.entries()) {
      const { text, ids, finishReason, usage } = await model.generate(request);
      expect(results[i], `request ${i}`).toMatchObject({ text, ids, finishReason, usage });
    }
  });

  test('times what each text took, not what it waited', async () => {
    const started = performance.now();
    const results = await model.generateBatch(
      Array.from({ length: 6 }, () => requests[0]!),
      { atOnce: 1 },
    );
    const all = performance.now() - started;
    expect(results.reduce((sum, { timings }) => sum + timings.prefillMs + timings.decodeMs, 0)).toBeLessThanOrEqual(all);
  });

  test('a request is given as many ties as alone', async () => {
    // With a last norm of zeros all logits are equal: only how many of them a request is given decides.
    const norm = contents.tensors.get('model.norm.weight')!;
    const tensors = new Map([...contents.tensors, ['model.norm.weight', { ...norm, data: new Uint8Array(norm.data.byteLength) }]]);
    await using flat = await loadModel(memoryCheckpoint({ ...contents, tensors }), { runtime, contextLength: 96 });
    const request: BatchRequest = { prompt, maxTokens: 8, temperature: 1, topK: 3, seed: 5, ignoreEos: true };
    const alone = await flat.generate(request);
    const [beside] = await flat.generateBatch([request, { ...request, logitBias: { 3: 0 } }]);
    expect(beside!.ids).toEqual(alone.ids);
  });

  test('a stream names whose token it is; leaving it closes all', async () => {
    const texts = requests.map(() => '');
    for await (const { index, text } of model.streamBatch(requests)) texts[index] += text;
    expect(texts).toEqual((await model.generateBatch(requests)).map(({ text }) => text));
    let seen = 0;
    for await (const _ of model.streamBatch(requests)) if (++seen === 7) break;
    expect(model.memory().kvCache).toBe(0);
    expect(await model.generateBatch([])).toEqual([]);
  });

  test('what is wrong is said before anything runs', async () => {
    const good = requests[0]!;
    await expect(model.generateBatch([good, { prompt, maxTokens: 0 }])).rejects.toThrow(code('ERR_BAD_ARGUMENT'));
    await expect(model.generateBatch([good, { prompt, signal: new AbortController().signal } as never])).rejects.toThrow(
      'request 1 of the batch has signal',
    );
    await expect(model.generateBatch([good, { prompt, max_tokens: 3 } as never])).rejects.toThrow('request 1 of generateBatch');
    for (const atOnce of [0, 5, 1.5]) await expect(model.generateBatch([good], { atOnce })).rejects.toThrow(code('ERR_BAD_ARGUMENT'));
    const controller = new AbortController();
    const batch = model.generateBatch(requests, { signal: controller.signal, onProgress: () => controller.abort(new Error('enough')) });
    await expect(batch).rejects.toThrow('enough');
    expect(model.memory().kvCache).toBe(0);
  });
});

describe('prompt lookup', () => {
  test('guesses what followed before', () => {
    const lookup = { ngram: 2, tokens: 3 };
    expect(guess([1, 2, 3, 4, 5, 1, 2], lookup, 9)).toEqual([3, 4, 5]);
    expect(guess([1, 2, 3, 1, 2, 9, 1, 2], lookup, 9)).toEqual([9, 1, 2]);
    expect(guess([1, 2, 3, 4, 5, 1, 2], lookup, 2)).toEqual([3, 4]);
    expect(guess([7, 7, 7], lookup, 9)).toEqual([7]);
    for (const none of [[], [1], [1, 2], [1, 2, 3], [2, 1, 3, 1, 2]]) expect(guess(none, lookup, 9)).toEqual([]);
    expect(guess([1, 2, 3, 4, 5, 1, 2], lookup, 0)).toEqual([]);
  });

  test.each<[string, Partial<GenerateOptions>]>([
    ['greedy', { temperature: 0 }],
    ['sampled', { temperature: 0.7, topK: 3, seed: 5 }],
    ['with penalties', { temperature: 0, frequencyPenalty: 0.4, repetitionPenalty: 1.05 }],
    [
      'with a processor',
      { temperature: 0, logitsProcessors: [(scores, { tokens }) => void scores.fill(-1e9, tokens.at(-1)!, tokens.at(-1)! + 1)] },
    ],
    ['to the end of the context', { temperature: 0, maxTokens: 200 }],
    ['up to a stop string', { temperature: 0, stop: ' and' }],
  ])('gives the same text, %s', async (_, options) => {
    const asked = { prompt: `${prompt} and the small river carries and the small`, maxTokens: 40, ignoreEos: true, ...options };
    const plain = await model.generate(asked);
    let guessed = 0;
    for (const lookup of [true, { tokens: 8, ngram: 1 }]) {
      const { text, ids, finishReason, usage } = await model.generate({ ...asked, promptLookup: lookup });
      expect({ text, ids, finishReason }).toEqual({ text: plain.text, ids: plain.ids, finishReason: plain.finishReason });
      guessed += usage.guessedTokens;
    }
    expect(plain.usage.guessedTokens).toBe(0);
    if (Object.keys(options).join() === 'temperature') expect(guessed).toBeGreaterThan(0);
  });

  test('goes with a prompt cache, and refuses nonsense', async () => {
    await using promptCache = model.promptCache();
    const asked = { prompt, temperature: 0, maxTokens: 30, ignoreEos: true } as const;
    const plain = await model.generate(asked);
    for (let i = 0; i < 2; i++) expect((await model.generate({ ...asked, promptCache, promptLookup: true })).ids).toEqual(plain.ids);
    for (const promptLookup of [{ tokens: 0 }, { ngram: 1.5 }, { tokens: 1000 }]) {
      await expect(model.generate({ ...asked, promptLookup })).rejects.toThrow(code('ERR_BAD_ARGUMENT'));
    }
  });
});

describe('a prompt cache', () => {
  const greedy = { temperature: 0, maxTokens: 10, ignoreEos: true } as const;

  test('goes on where a text parts from the last one, with the same result', async () => {
    await using promptCache = model.promptCache();
    const first = await model.generate({ ...greedy, prompt, promptCache });
    expect(first.usage.cachedTokens).toBe(0);
    expect(promptCache.size).toBe(1);
    const held = model.memory().kvCache;
    expect(held).toBeGreaterThan(0);
    const longer = `${prompt}${first.text} and then`;
    for (const next of [longer, prompt, 'The small boat', longer]) {
      const plain = await model.generate({ ...greedy, prompt: next });
      const cached = await model.generate({ ...greedy, prompt: next, promptCache });
      expect(cached).toMatchObject({ text: plain.text, ids: plain.ids });
      expect(cached.usage.cachedTokens).toBeGreaterThan(0);
      expect(cached.usage.cachedTokens).toBeLessThan(cached.usage.promptTokens);
      expect(promptCache.size).toBe(1);
    }
    // The whole prompt but its last token.
    const again = await model.generate({ ...greedy, prompt: longer, promptCache });
    expect(again.usage.cachedTokens).toBe(again.usage.promptTokens - 1);
  });

  test('holds several texts and forgets the one not used for longest', async () => {
    await using promptCache = model.promptCache({ texts: 2 });
    const cachedOf = async (text: string) =>
      (await model.generate({ ...greedy, maxTokens: 2, prompt: text, promptCache })).usage.cachedTokens;
    const texts = ['river and sea and all of it', 'One more thing to be said', 'all of them are in the house'];
    expect(await cachedOf(texts[0]!)).toBe(0);
    const start = await cachedOf(texts[1]!); // a start token, if there is one
    expect(await cachedOf(texts[0]!)).toBeGreaterThan(start);
    await cachedOf(texts[2]!);
    expect(promptCache.size).toBe(2);
    expect(await cachedOf(texts[0]!)).toBeGreaterThan(start);
    expect(await cachedOf(texts[1]!)).toBe(start);
  });

  test('what is a part of a held text takes no place of another, nor does a failure', async () => {
    await using promptCache = model.promptCache({ texts: 2 });
    const run = (text: string, maxTokens: number, more: Partial<GenerateOptions> = {}) =>
      model.generate({ ...greedy, maxTokens, prompt: text, promptCache, ...more });
    const texts = ['river and sea and all of it', 'One more thing to be said'];
    for (const text of texts) await run(text, 6);
    await run(texts[1]!, 1);
    expect((await run(texts[0]!, 1)).usage.cachedTokens).toBeGreaterThan(3);
    const broken = run('One more', 3, {
      logitsProcessors: [
        () => {
          throw new Error('mine');
        },
      ],
    });
    await expect(broken).rejects.toThrow('mine');
    for (const text of texts) expect((await run(text, 1)).usage.cachedTokens).toBeGreaterThan(3);
  });

  test('an unrelated text copies no more than what both begin with', async () => {
    await using promptCache = model.promptCache();
    await model.generate({ ...greedy, maxTokens: 60, prompt, promptCache });
    const held = model.memory().kvCache;
    const seen: number[] = [];
    const watching = [() => void seen.push(model.memory().kvCache)];
    await model.generate({ ...greedy, maxTokens: 2, prompt: 'One', promptCache, logitsProcessors: watching });
    expect(Math.max(...seen)).toBeLessThan(1.5 * held);
  });

  test('a model of one sequence goes on with it, and a batch with what is left', async () => {
    await using one = await loadModel(memoryCheckpoint(contents), { runtime, contextLength: 96, maxSequences: 1 });
    const cache = one.promptCache();
    for (const text of [prompt, 'The small boat', prompt, 'One more thing to be said', prompt]) {
      const { ids } = await one.generate({ ...greedy, prompt: text, promptCache: cache });
      expect(ids).toEqual((await model.generate({ ...greedy, prompt: text })).ids);
    }
    await expect(one.generate({ ...greedy, prompt })).rejects.toThrow(code('ERR_LIMIT'));
    await cache[Symbol.asyncDispose]();
    await using two = await loadModel(memoryCheckpoint(contents), { runtime, contextLength: 96, maxSequences: 2 });
    await using held = two.promptCache();
    await two.generate({ ...greedy, prompt, promptCache: held });
    const results = await two.generateBatch(['The', 'One', 'all'].map((text) => ({ ...greedy, prompt: text })));
    expect(results.map(({ usage }) => usage.completionTokens)).toEqual([10, 10, 10]);
  });

  test('is kept when a text is left early or fails, and given back when disposed', async () => {
    const promptCache = model.promptCache();
    for await (const _ of model.stream({ ...greedy, prompt, promptCache })) break;
    const { usage } = await model.generate({ ...greedy, prompt, promptCache });
    expect(usage.cachedTokens).toBe(usage.promptTokens - 1);
    const failing = model.generate({
      ...greedy,
      prompt,
      promptCache,
      logitsProcessors: [
        () => {
          throw new Error('mine');
        },
      ],
    });
    await expect(failing).rejects.toThrow('mine');
    expect(promptCache.size).toBe(1);
    await promptCache[Symbol.asyncDispose]();
    expect(model.memory().kvCache).toBe(0);
    await expect(model.generate({ ...greedy, prompt, promptCache })).rejects.toThrow(code('ERR_DISPOSED'));
  });

  test('is of one model', async () => {
    await using other = await loadModel(memoryCheckpoint(contents), { runtime, contextLength: 96 });
    await using promptCache = other.promptCache();
    await expect(model.generate({ ...greedy, prompt, promptCache })).rejects.toThrow('another model');
    for (const texts of [0, 1.5]) expect(() => model.promptCache({ texts })).toThrow(code('ERR_BAD_ARGUMENT'));
  });
});
