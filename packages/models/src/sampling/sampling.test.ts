import { largestOfRows, toFloat32 } from '@lowbit/core';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { goldenJson, goldenTensors } from '../../../../fixtures/golden.ts';
import { logitsNeeded, pickCandidate } from './candidates.ts';
import { logitEdits } from './edits.ts';
import { pickToken } from './pick.ts';
import { argmax, type LogitEdits, type LogitsProcessor, NEUTRAL_SAMPLING, processLogits, softmax } from './process.ts';
import { createRandom, xoshiro128 } from './random.ts';
import { generationDefaults, samplingSettings } from './settings.ts';

interface Case {
  readonly logits: string;
  readonly input_ids: string;
  readonly probs: string;
  readonly setting: Readonly<Record<string, number>>;
  readonly kept: number;
  readonly cut_between_ties: boolean;
}

const { settings: cases } = goldenJson<{ settings: Case[] }>('models/sampling/settings.json');
const tensors = goldenTensors('models/sampling/expected.safetensors');
const floats = (name: string): Float32Array => toFloat32(tensors.get(name)!);
const camel = (key: string): string => key.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
const settingsOf = (setting: Case['setting']) =>
  samplingSettings(NEUTRAL_SAMPLING, Object.fromEntries(Object.entries(setting).map(([key, value]) => [camel(key), value])));

/** All of it a prompt. */
const historyOf = (tokens: ArrayLike<number>) => ({ tokens: Array.from(tokens), prompt: tokens.length });
const NOTHING = historyOf([]);

describe('processors against transformers', () => {
  test.each(cases.map((c, i) => [i, JSON.stringify(c.setting), c] as const))('%i %s', (_, __, c) => {
    const scores = processLogits(floats(c.logits), historyOf(toFloat32(tensors.get(c.input_ids)!)), settingsOf(c.setting));
    let got = softmax(scores);
    let expected = Float64Array.from(floats(c.probs));
    expect(got.filter((p) => p > 0).length).toBe(expected.filter((p) => p > 0).length);
    if (c.cut_between_ties) {
      got = got.sort();
      expected = expected.sort();
    }
    const off = got.map((p, i) => Math.abs(p - expected[i]!));
    expect(Math.max(...off)).toBeLessThanOrEqual(1e-6);
    expect(got.map((p) => Number(p > 0))).toEqual(expected.map((p) => Number(p > 0)));
  });
  test('all 129 cases were read', () => expect(cases.length).toBe(129));
});

describe('random numbers', () => {
  test('xoshiro128** has the published outputs', () => {
    const next = xoshiro128([1, 2, 3, 4]);
    expect([next(), next(), next(), next()]).toEqual([11520, 0, 5927040, 70819200]);
  });
  test('a seed fixes the sequence, for good', () => {
    const next = createRandom(1);
    expect([next(), next(), next()]).toMatchInlineSnapshot(`
      [
        0.36200738200025806,
        0.949382241279422,
        0.3425393483530417,
      ]
    `);
    expect(createRandom(2 ** 40 + 1)()).not.toBe(createRandom(1)());
  });
  test('numbers are uniform in [0, 1)', () => {
    const next = createRandom(7);
    const buckets = new Array<number>(10).fill(0);
    for (let i = 0; i < 20_000; i++) buckets[Math.floor(next() * 10)]!++;
    for (const count of buckets) expect(Math.abs(count - 2000)).toBeLessThan(200);
  });
  test.each([-1, 0.5, Number.NaN, 2 ** 53])('refuses seed %d', (seed) => {
    expect(() => createRandom(seed)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
  });
});

describe('picking', () => {
  test('temperature 0 takes the best, lowest id of equals, after the penalty', () => {
    const greedy = { ...NEUTRAL_SAMPLING, temperature: 0 };
    const never = () => expect.unreachable();
    expect(pickToken(new Float32Array([1, 3, 3, 2]), NOTHING, greedy, never)).toBe(1);
    expect(pickToken(new Float32Array([1, 3, 2.9, 2]), historyOf([1]), { ...greedy, repetitionPenalty: 1.5 }, never)).toBe(2);
  });
  test('follows the distribution', () => {
    const random = createRandom(3);
    const logits = new Float32Array([0, Math.log(3), Number.NEGATIVE_INFINITY]);
    const counts = [0, 0, 0];
    for (let i = 0; i < 8000; i++) counts[pickToken(logits, NOTHING, NEUTRAL_SAMPLING, random)]!++;
    expect(counts[2]).toBe(0);
    expect(counts[1]! / 8000).toBeCloseTo(0.75, 1);
  });
  test('the last token is reachable and a draw near 1 is safe', () => {
    expect(pickToken(new Float32Array([0, 0, 0]), NOTHING, NEUTRAL_SAMPLING, () => 1 - 2 ** -53)).toBe(2);
  });
  test('NaN logits are an error', () => {
    const logits = new Float32Array([Number.NaN, Number.NaN]);
    for (const temperature of [0, 1]) {
      expect(() => pickToken(logits, NOTHING, { ...NEUTRAL_SAMPLING, temperature }, Math.random)).toThrow(
        expect.objectContaining({ code: 'ERR_NON_FINITE' }),
      );
    }
    expect(argmax([])).toBe(-1);
  });
});

describe('penalties and edits', () => {
  const logits = new Float32Array([1, 2, -1, 0.5]);
  const history = { tokens: [1, 2, 2, 3, 2], prompt: 2 };
  const scores = (more: Partial<typeof NEUTRAL_SAMPLING>, edits?: LogitEdits) =>
    Array.from(processLogits(logits, history, { ...NEUTRAL_SAMPLING, ...more }, edits));

  test('frequency and presence count what was generated, repetition all', () => {
    expect(scores({ frequencyPenalty: 0.25 })).toEqual([1, 2, -1.5, 0.25]);
    expect(scores({ presencePenalty: 0.25 })).toEqual([1, 2, -1.25, 0.25]);
    expect(scores({ frequencyPenalty: 0.25, presencePenalty: -1 })).toEqual([1, 2, -0.5, 1.25]);
    expect(scores({ repetitionPenalty: 2 })).toEqual([1, 1, -2, 0.25]);
    expect(scores({ repetitionPenalty: 2, frequencyPenalty: 0.25 })).toEqual([1, 1, -2.5, 0]);
  });
  test('bias, repetition, own processors, temperature: in this order', () => {
    const seen: unknown[] = [];
    const processors: LogitsProcessor[] = [
      (own, { tokens, prompt }) => {
        seen.push(Array.from(own), tokens, prompt);
        own[0] = 10;
      },
      (own) => {
        own[3] = own[0]! + 2;
      },
    ];
    const bias = new Map([
      [1, 2],
      [2, Number.NEGATIVE_INFINITY],
    ]);
    expect(scores({ repetitionPenalty: 2, temperature: 2 }, { bias, processors })).toEqual([5, 1, Number.NEGATIVE_INFINITY, 6]);
    expect(seen).toEqual([[1, 2, Number.NEGATIVE_INFINITY, 0.25], history.tokens, 2]);
    expect(Array.from(logits)).toEqual([1, 2, -1, 0.5]);
  });
  test('a token that is ruled out is never picked, and without another it is an error', () => {
    for (const temperature of [0, 1]) {
      const settings = { ...NEUTRAL_SAMPLING, temperature };
      const only = new Map([0, 1, 3].map((id) => [id, Number.NEGATIVE_INFINITY] as const));
      expect(pickToken(logits, NOTHING, settings, () => 0.999, { bias: only })).toBe(2);
      const bias = new Map([...only, [2, Number.NEGATIVE_INFINITY]]);
      expect(() => pickToken(logits, NOTHING, settings, Math.random, { bias })).toThrow(
        expect.objectContaining({ code: 'ERR_NON_FINITE', message: expect.stringContaining('ruled out') }),
      );
    }
  });
  test.each<[string, Parameters<typeof logitEdits>]>([
    ['a token beyond the vocabulary', [{ 4: 1 }, undefined, 4]],
    ['no token', [{ '1.5': 1 } as never, undefined, 4]],
    ['an empty key', [{ '': 1 } as never, undefined, 4]],
    ['another way to write a number', [{ '0x1': 1 } as never, undefined, 4]],
    ['a bias that is no number', [{ 1: 'x' as never }, undefined, 4]],
    ['NaN', [{ 1: Number.NaN }, undefined, 4]],
    ['infinity', [{ 1: Number.POSITIVE_INFINITY }, undefined, 4]],
    ['a processor that is no function', [undefined, [{} as never], 4]],
  ])('refuses %s', (_, args) => {
    expect(() => logitEdits(...args)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
  });
});

describe('picking among the largest logits', () => {
  const settings = fc.record({
    temperature: fc.constantFrom(0, 0.5, 1.3),
    topK: fc.constantFrom(1, 5, 20),
    topP: fc.constantFrom(1, 0.8),
    minP: fc.constantFrom(0, 0.05),
    typicalP: fc.constantFrom(1, 0.9),
    repetitionPenalty: fc.constantFrom(1, 1.2, 3),
    frequencyPenalty: fc.constantFrom(0, 0.5),
    presencePenalty: fc.constantFrom(0, 1),
  });
  test('gives the token that all of them give', () => {
    fc.assert(
      fc.property(settings, fc.integer(), fc.array(fc.nat(799), { maxLength: 60 }), fc.nat(), (one, seed, tokens, some) => {
        const context = { tokens, prompt: some % (tokens.length + 1) };
        const noise = createRandom(Math.abs(seed));
        // Coarse numbers, so that there are ties.
        const logits = Float32Array.from({ length: 800 }, () => Math.round((noise() + noise() + noise()) * 40) / 8);
        const count = logitsNeeded(one, context, logits.length);
        expect(count).toBeGreaterThan(0);
        const { values, ids } = largestOfRows(logits, logits.length, count);
        const draw = noise();
        expect(pickCandidate(values, ids, context, one, () => draw)).toBe(pickToken(logits, context, one, () => draw));
      }),
    );
  });
  test('all are needed where others than the largest can come next', () => {
    const needed = (more: Partial<typeof NEUTRAL_SAMPLING>) => logitsNeeded({ ...NEUTRAL_SAMPLING, ...more }, historyOf([1, 2, 2]), 50_000);
    expect(needed({})).toBe(0);
    expect(needed({ topP: 0.9 })).toBe(0);
    expect(needed({ temperature: 0, repetitionPenalty: 0.9 })).toBe(0);
    expect(needed({ temperature: 0 })).toBe(1);
    expect(needed({ temperature: 0, repetitionPenalty: 1.1 })).toBe(3);
    expect(needed({ temperature: 0, presencePenalty: 1 })).toBe(3);
    for (const raising of [{ presencePenalty: -1 }, { frequencyPenalty: -1 }]) expect(needed({ temperature: 0, ...raising })).toBe(0);
    expect(needed({ topK: 40 })).toBe(104);
    expect(logitsNeeded({ ...NEUTRAL_SAMPLING, topK: 40 }, NOTHING, 256)).toBe(0);
  });
  test('NaN logits are an error', () => {
    for (const settings of [
      { ...NEUTRAL_SAMPLING, temperature: 0 },
      { ...NEUTRAL_SAMPLING, topK: 5 },
    ]) {
      const logits = Float32Array.from({ length: 800 }, (_, i) => (i === 300 ? Number.NaN : i % 7));
      const { values, ids } = largestOfRows(logits, 800, logitsNeeded(settings, NOTHING, 800));
      for (const pick of [
        () => pickCandidate(values, ids, NOTHING, settings, Math.random),
        () => pickToken(logits, NOTHING, settings, Math.random),
      ]) {
        expect(pick).toThrow(expect.objectContaining({ code: 'ERR_NON_FINITE' }));
      }
    }
  });
});

describe('settings', () => {
  test('of generation_config.json', () => {
    const of = (generation: Record<string, number | boolean | null>) => generationDefaults(generation, {}).sampling;
    expect(of({})).toEqual({ ...NEUTRAL_SAMPLING, temperature: 0.7 });
    expect(of({ do_sample: true })).toMatchObject({ temperature: 1, topK: 50 });
    expect(of({ do_sample: true, temperature: 0.6, top_p: 0.9, top_k: 0 })).toMatchObject({ temperature: 0.6, topP: 0.9, topK: 0 });
    expect(of({ do_sample: false, temperature: 0.6 })).toMatchObject({ temperature: 0 });
    expect(of({ temperature: 0.6, repetition_penalty: 1.1 })).toMatchObject({ temperature: 0.6, repetitionPenalty: 1.1 });
    expect(() => of({ top_p: 2 })).toThrow(
      expect.objectContaining({ code: 'ERR_BAD_CHECKPOINT', message: expect.stringContaining('generation_config.json: top_p') }),
    );
  });
  test('of generation_config.json, as Python users switch things off', () => {
    const of = (generation: Record<string, number | boolean | null>) => generationDefaults(generation, {}).sampling;
    for (const top_k of [0, -1, null]) {
      expect(of({ top_k })).toMatchObject({ topK: 0, temperature: 0.7 });
      expect(of({ do_sample: true, top_k })).toMatchObject({ topK: 0, temperature: 1 });
    }
    const off = { temperature: null, top_p: null, min_p: null, typical_p: null, repetition_penalty: null };
    expect(of({ ...off, do_sample: true })).toEqual({ ...NEUTRAL_SAMPLING, topK: 50 });
    expect(of({ ...off, do_sample: null })).toEqual({ ...NEUTRAL_SAMPLING, temperature: 0.7 });
    for (const temperature of [null, 0.6, -1]) expect(of({ do_sample: false, temperature, top_k: -1 })).toMatchObject({ temperature: 0 });
    expect(() => of({ top_k: 2.5 })).toThrow(expect.objectContaining({ code: 'ERR_BAD_CHECKPOINT' }));
  });
  test('end tokens: generation_config.json before config.json', () => {
    expect(generationDefaults({ eos_token_id: [1, 2] }, { eos_token_id: 3 }).eosIds).toEqual([1, 2]);
    expect(generationDefaults({}, { eos_token_id: 3 }).eosIds).toEqual([3]);
    expect(generationDefaults({}, { eos_token_id: null }).eosIds).toEqual([]);
    expect(() => generationDefaults({ eos_token_id: 'x' }, {})).toThrow(/eos_token_id/);
  });
  test('the caller wins, out of range throws', () => {
    expect(samplingSettings({ ...NEUTRAL_SAMPLING, topK: 50 }, { temperature: 0, topK: undefined })).toMatchObject({
      temperature: 0,
      topK: 50,
    });
    for (const bad of [{ temperature: -1 }, { topP: 1.5 }, { topK: 2.5 }, { repetitionPenalty: 0 }, { minP: Number.NaN }]) {
      expect(() => samplingSettings(NEUTRAL_SAMPLING, bad)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
    }
  });
});
