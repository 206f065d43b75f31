import { createRuntime, referenceBackend, toFloat32 } from '@lowbit/core';
import { expect, test } from 'vitest';
import * as golden from '../../../../fixtures/golden.ts';
import { loadModel } from '../model/load-model.ts';
import { goldenContents, memoryCheckpoint } from '../testing/memory-checkpoint.ts';
import { klDivergence } from './kl-divergence.ts';
import { logSumExp, negativeLogLikelihood, rowDivergence } from './log-softmax.ts';
import { perplexity, type Scorer } from './perplexity.ts';
import { evaluationWindows } from './windows.ts';

interface Means {
  readonly mean_nll: number;
  readonly perplexity: number;
  readonly scored_tokens: number;
}

/** A model that holds the next token to be `logits[token]`-distributed, whatever came before. */
const bigram = (table: readonly (readonly number[])[], chunk = 1): Scorer => ({
  vocab: table.length,
  contextLength: 64,
  async *logitRows(ids, { from = 0, to = ids.length } = {}) {
    for (let at = from; at < to; at += chunk) {
      const rows = Math.min(chunk, to - at);
      yield { position: at, rows, logits: Float32Array.from(Array.from({ length: rows }, (_, i) => table[ids[at + i]!]!).flat()) };
    }
  },
});

test('perplexity over sliding windows against transformers, token by token', async () => {
  await using runtime = await createRuntime({ backends: [referenceBackend()] });
  await using model = await loadModel(memoryCheckpoint(goldenContents(golden, 'perplexity')), { runtime });
  const expected = golden.goldenJson<Record<string, Means>>('models/perplexity/expected.json');
  const tensors = golden.goldenTensors('models/perplexity/expected.safetensors');
  const ids = toFloat32(tensors.get('input_ids')!);
  for (const stride of [256, 128]) {
    const want = expected[`stride_${stride}`]!;
    const single = toFloat32(tensors.get(`token_nll.${stride}`)!).filter((nll) => !Number.isNaN(nll));
    const got: number[] = [];
    const result = await perplexity(model, ids, { contextLength: 256, stride, onToken: (_, nll) => got.push(nll) });
    expect(result.tokens).toBe(want.scored_tokens);
    expect(Math.abs(result.nll - want.mean_nll)).toBeLessThanOrEqual(2e-5);
    expect(result.perplexity).toBeCloseTo(want.perplexity, 3);
    expect(result.stderr).toBeGreaterThan(0);
    expect(got.length).toBe(single.length);
    expect(Math.max(...got.map((nll, i) => Math.abs(nll - single[i]!)))).toBeLessThanOrEqual(2e-4);
  }
  await expect(perplexity(model, ids, { contextLength: 1024 })).rejects.toThrow(expect.objectContaining({ code: 'ERR_LIMIT' }));
  const controller = new AbortController();
  const stopped = perplexity(model, ids, {
    contextLength: 64,
    signal: controller.signal,
    onProgress: () => controller.abort(new Error('enough')),
  });
  await expect(stopped).rejects.toThrow('enough');
});

test('windows', () => {
  const ids = Array.from({ length: 10 }, (_, i) => i + 100);
  const cut = (options: Parameters<typeof evaluationWindows>[1]) =>
    evaluationWindows(ids, options).map(({ ids: w, from, to }) => [w.join(' '), from, to]);
  expect(cut({ contextLength: 4 })).toEqual([
    ['100 101 102 103', 1, 4],
    ['104 105 106 107', 1, 4],
    ['108 109', 1, 2],
  ]);
  expect(cut({ contextLength: 6, stride: 3 })).toEqual([
    ['100 101 102 103 104 105', 1, 6],
    ['103 104 105 106 107 108', 3, 6],
    ['106 107 108 109', 3, 4],
  ]);
  expect(cut({ contextLength: 5, prefixIds: [1], dropPartial: true })).toEqual([
    ['1 100 101 102 103', 1, 5],
    ['1 104 105 106 107', 1, 5],
  ]);
  const bad = expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', hint: expect.stringMatching(/\.$/) });
  expect(() => cut({ contextLength: 1 })).toThrow(bad);
  expect(() => cut({ contextLength: 4, stride: 5 })).toThrow(bad);
  expect(() => cut({ contextLength: 2, prefixIds: [1, 2] })).toThrow(bad);
  expect(() => evaluationWindows([5], { contextLength: 4 })).toThrow(bad);
});

test('scores of hand-made logits', () => {
  const p = new Float32Array([Math.log(0.5), Math.log(0.25), Math.log(0.25)]);
  const q = new Float32Array([5, 5, 5]);
  expect(logSumExp(q)).toBeCloseTo(5 + Math.log(3), 12);
  expect(negativeLogLikelihood(p, 1)).toBeCloseTo(Math.log(4), 6);
  expect(rowDivergence(p, q)).toBeCloseTo(0.5 * Math.log(1.5) + 0.5 * Math.log(0.75), 6);
  expect(rowDivergence(p, p)).toBe(0);
  expect(logSumExp(new Float32Array([1000, 1000]))).toBeCloseTo(1000 + Math.log(2), 9);
});

test('divergence of two models, whatever their chunks', async () => {
  const a = [
    [0, 2],
    [1, 0],
  ];
  const b = [
    [0, 2],
    [0, 1],
  ];
  const ids = [0, 1, 1, 0, 1];
  const same = await klDivergence(bigram(a), bigram(a, 3), ids, { contextLength: 5 });
  expect(same).toMatchObject({ kl: 0, top1: 1, tokens: 4 });
  expect(same.reference).toEqual(same.model);
  const other = await klDivergence(bigram(a, 2), bigram(b, 3), ids, { contextLength: 5 });
  const row = rowDivergence(Float32Array.from(a[1]!), Float32Array.from(b[1]!));
  expect(other.kl).toBeCloseTo(row / 2, 12); // two of the four positions follow a 1
  expect(other.top1).toBe(0.5);
  // Two positions of 0 and two of the row's divergence; two of 0 and two of 1.
  expect(other.klStderr).toBeCloseTo(Math.sqrt((4 * (row / 2) ** 2) / 3 / 4), 12);
  expect(other.top1Stderr).toBeCloseTo(Math.sqrt(1 / 3 / 4), 12);
  const twice = await klDivergence(bigram(a), bigram(b), [ids, ids], { contextLength: 5 });
  expect(twice.tokens).toBe(8);
  expect(twice.kl).toBeCloseTo(other.kl, 12); // a window never crosses from one text into the next
  expect(other.model.nll).toBe((await perplexity(bigram(b), ids, { contextLength: 5 })).nll);
  await expect(klDivergence(bigram(a), bigram([[0]]), ids)).rejects.toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
});

test.each([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])('a logit of %d is an error, not a result', async (bad) => {
  const good = [
    [0, 2, 1],
    [1, 0, 0],
    [0, 0, 0],
  ];
  const broken = [good[0]!, good[1]!, [0, bad, 0]];
  const ids = [0, 1, 0, 2, 1, 0]; // windows of 3: [0, 1, 0] and [2, 1, 0]
  const failure = (who: string) =>
    expect.objectContaining({
      code: 'ERR_NON_FINITE',
      message: expect.stringMatching(`${who} after position 0 of window 1`),
      details: { window: 1, position: 0 },
    });
  const options = { contextLength: 3 };
  await expect(perplexity(bigram(broken), ids, options)).rejects.toThrow(failure('the model'));
  await expect(klDivergence(bigram(good), bigram(broken), ids, options)).rejects.toThrow(failure('the model'));
  await expect(klDivergence(bigram(broken), bigram(good), ids, options)).rejects.toThrow(failure('the reference'));
});

test('a token that a model rules out may stand beside those that it scores', async () => {
  const table = [
    [0, 1, Number.NEGATIVE_INFINITY],
    [0, 1, Number.NEGATIVE_INFINITY],
    [0, 0, 0],
  ];
  const ids = [0, 1, 0, 1];
  expect((await perplexity(bigram(table), ids, { contextLength: 4 })).nll).toBeGreaterThan(0);
  expect((await klDivergence(bigram(table), bigram(table), ids, { contextLength: 4 })).kl).toBe(0);
});
