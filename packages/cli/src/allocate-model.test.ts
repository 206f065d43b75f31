import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { byteLength, dequantize, float32Tensor, hostTensor, type Quantizer, quantizationError, quantize, toFloat32 } from '@lowbit/core';
import { hqq } from '@lowbit/hqq';
import { createRandom } from '@lowbit/models';
import { describe, expect, it, onTestFinished } from 'vitest';
import { type AllocateModelOptions, allocateModel } from './allocate-model.ts';
import { choiceError } from './choice-error.ts';
import { choicesAcross, defaultChoices, makeChoices } from './choices.ts';
import { createProgram } from './command-line.ts';
import { openModelFolder } from './open.ts';
import { parseUse } from './parse.ts';
import { parseChoices, parseMethods } from './parse-choices.ts';
import { planModel, quantizeModel } from './quantize-model.ts';
import { isSaved, parseSaved, savedText, type TestedSensitivities } from './sensitivity.ts';

const TINY = fileURLToPath(new URL('../../../examples/tiny-llama', import.meta.url));
const TAGS = [
  'self_attn.q_proj',
  'self_attn.k_proj',
  'self_attn.v_proj',
  'self_attn.o_proj',
  'mlp.gate_proj',
  'mlp.up_proj',
  'mlp.down_proj',
];

/** As if measured: v_proj matters most, and the last layer more than the first. */
const sensitivities: TestedSensitivities = {
  metric: 'kl',
  on: 'random-tokens',
  tokens: 1,
  linears: Array.from({ length: 6 }, (_, layer) =>
    TAGS.map((tag) => ({
      path: `model.layers.${layer}.${tag}`,
      sensitivity: (1 + layer / 10) * (tag.endsWith('v_proj') ? 1 : 0.01),
      points: [],
    })),
  ).flat(),
};

/** Errors that need no weights, so that these tests quantize nothing. */
const choices = makeChoices(['hqq:b2:g64', 'hqq:b4:g64', 'hqq:b8:g64']).map((choice, i) => ({
  ...choice,
  error: () => [0.1, 0.01, 0.0001][i]!,
}));
const allocated = (options: Partial<AllocateModelOptions> = {}) =>
  allocateModel(TINY, { targetBits: 3.25, choices, sensitivities, ...options });

describe('choiceError', () => {
  const weight = float32Tensor(
    [4, 64],
    Float32Array.from({ length: 256 }, (_, i) => Math.sin(i * i) * (1 + (i % 64))),
  );
  const use = hqq({ bits: 3, groupSize: 64 });
  const moments = (kind: 'diagonal' | 'matrix', of: (channel: number) => number) => ({
    kind,
    rows: 1,
    moments:
      kind === 'diagonal'
        ? hostTensor(
            'f32',
            [64],
            Float32Array.from({ length: 64 }, (_, i) => of(i)),
          )
        : hostTensor(
            'f32',
            [64, 64],
            Float32Array.from({ length: 4096 }, (_, i) => (i % 65 === 0 ? of(i / 65) : 9)),
          ),
  });

  it('is the relative squared error', async () => {
    const { snrDb } = quantizationError(weight, await quantize(weight, use, { metaDtype: 'f16' }));
    expect(await choiceError(weight, use, { metaDtype: 'f16' })).toBeCloseTo(10 ** (-snrDb / 10), 12);
    expect(await choiceError(float32Tensor([2, 64], new Float32Array(128)), use)).toBe(0);
  });

  it('counts channels by what their inputs are', async () => {
    const plain = await choiceError(weight, use);
    expect(await choiceError(weight, use, { importance: moments('diagonal', () => 7) })).toBeCloseTo(plain, 12);
    // One channel alone: 64 times its own error.
    const stored = toFloat32(dequantize(await quantize(weight, use)));
    const values = toFloat32(weight);
    let error = 0;
    for (let row = 0; row < 4; row++) error += (values[row * 64 + 63]! - stored[row * 64 + 63]!) ** 2;
    const expected = (64 * error) / values.reduce((sum, value) => sum + value * value, 0);
    for (const kind of ['diagonal', 'matrix'] as const) {
      const importance = moments(kind, (channel) => (channel === 63 ? 3 : 0));
      expect(await choiceError(weight, use, { importance })).toBeCloseTo(expected, 12);
    }
  });
});

it('knows the error of HIGGS without looking at weights', async () => {
  for (const inp of [256, 320, 352, 64, 48]) {
    const random = createRandom(inp);
    const bell = (): number => random() + random() + random() + random() - 2;
    const weight = float32Tensor([512, inp], Float32Array.from({ length: 512 * inp }, bell));
    for (const [i, choice] of makeChoices(['higgs:b2:h128:g64', 'higgs:b3:p1:h128:g64', 'higgs:b4:h128:g64']).entries()) {
      const measured = await choiceError(weight, choice.use as Quantizer, { metaDtype: 'f16' });
      expect(Math.abs(measured / choice.error!([512, inp]) - 1), `${inp} ${i}`).toBeLessThan(0.05);
    }
  }
});

describe('allocateModel', () => {
  it('gives bits where errors cost most, as rules that quantize and plan take', async () => {
    const { rules, linears, bitsPerWeight, loss, gap, uniform } = await allocated();
    expect(bitsPerWeight).toBeLessThanOrEqual(3.25);
    expect(bitsPerWeight).toBeGreaterThan(3.2);
    expect([linears.length, gap]).toEqual([42, 0]);
    const bits = (tag: string): number => linears.filter((linear) => linear.tag === tag).reduce((sum, linear) => sum + linear.bits, 0) / 6;
    expect(bits('self_attn.v_proj')).toBeGreaterThan(2 * bits('mlp.up_proj'));
    expect(loss).toBeCloseTo(
      linears.reduce((sum, { sensitivity, error }) => sum + sensitivity * error, 0),
      12,
    );
    expect(uniform.map(({ choice, bitsPerWeight: each }) => [choice, each])).toEqual([
      ['hqq:b2:g64', 2.5],
      ['hqq:b4:g64', 4.5],
      ['hqq:b8:g64', 8.5],
    ]);
    expect(loss).toBeLessThan(uniform[0]!.loss);

    const plan = await planModel(TINY, { rules });
    expect(plan.summary.bitsPerWeight).toBeCloseTo(bitsPerWeight, 9);
    const dir = mkdtempSync(join(tmpdir(), 'lowbit-allocate-'));
    onTestFinished(() => rmSync(dir, { recursive: true }));
    const report = await quantizeModel(TINY, { out: join(dir, 'out'), rules });
    expect(report.files).toEqual(plan.files);
  });

  it('counts the bits of HIGGS as files have them, and takes the least target that it names', async () => {
    const one = {
      rules: [{ match: ['model.layers.{1,2,3,4,5}.**', 'mlp.*'], use: 'keep' }],
      choices: makeChoices(['higgs:b4:h64:g64']),
    } as const;
    const some = await allocated({ ...one, targetBits: 9 });
    const dir = mkdtempSync(join(tmpdir(), 'lowbit-allocate-'));
    onTestFinished(() => rmSync(dir, { recursive: true }));
    const report = await quantizeModel(TINY, { out: join(dir, 'out'), rules: some.rules });
    await using written = await openModelFolder(join(dir, 'out'));
    for (const { path, bits, weights } of some.linears) {
      const own = [...written.source.entries].filter(([name]) => name.startsWith(`${path}.`) && !name.endsWith('.bias'));
      expect(bits * weights, path).toBe(own.reduce((sum, [, spec]) => sum + 8 * byteLength(spec), 0));
    }
    expect(report.summary.bitsPerWeight).toBeCloseTo(some.bitsPerWeight, 12);
    const tags = report.tags.filter(({ quantized }) => quantized);
    expect(tags.reduce((sum, row) => sum + 8 * row.bytes, 0)).toBe(some.bitsPerWeight * some.weights);

    const least = await allocated({ ...one, targetBits: 2 }).catch((error: Error) => Number(/take, ([\d.]+)$/.exec(error.message)?.[1]));
    expect(least).toBeGreaterThanOrEqual(some.bitsPerWeight);
    expect(least).toBeLessThan(some.bitsPerWeight + 1e-4);
    expect((await allocated({ ...one, targetBits: least as number })).bitsPerWeight).toBe(some.bitsPerWeight);
  });

  it('names a least target that it takes, where four decimals do not hold it', async () => {
    const rules = [{ match: ['model.layers.{1,2,3,4,5}.**', 'mlp.*'], use: 'keep' }] as const;
    const some = makeChoices(['nf4:g64:dq']);
    const target = (targetBits: number) => allocated({ rules, choices: some, targetBits });
    const exact = (await target(9)).bitsPerWeight;
    const below = Math.floor(exact * 1e4) / 1e4;
    expect(below).toBeLessThan(exact);
    const named = Math.ceil(exact * 1e4) / 1e4;
    await expect(target(below)).rejects.toThrow(`${below} bits per weight are fewer than the smallest choices take, ${named}`);
    expect((await target(named)).bitsPerWeight).toBe(exact);
  });

  it('leaves what rules match alone, and can choose by tag', async () => {
    const rules = [{ match: 'self_attn.v_proj', use: 'keep' }] as const;
    const { linears, rules: all, weights } = await allocated({ rules, per: 'tag' });
    expect(linears.length).toBe(36);
    expect(linears.some(({ tag }) => tag === 'self_attn.v_proj')).toBe(false);
    expect(weights).toBe(linears.reduce((sum, linear) => sum + linear.weights, 0));
    expect(all[0]).toBe(rules[0]);
    for (const tag of TAGS)
      expect(new Set(linears.filter((linear) => linear.tag === tag).map(({ choice }) => choice)).size).toBeLessThan(2);
  });

  it('gives one choice to what programs load as one', async () => {
    const { linears, bitsPerWeight } = await allocated({ per: 'fused' });
    const choice = new Map(linears.map((linear) => [linear.path, linear.choice]));
    for (let layer = 0; layer < 6; layer++) {
      const of = (tags: readonly string[]) => new Set(tags.map((tag) => choice.get(`model.layers.${layer}.${tag}`)));
      expect([of(TAGS.slice(0, 3)).size, of(TAGS.slice(4, 6)).size]).toEqual([1, 1]);
    }
    expect(new Set(choice.values()).size).toBeGreaterThan(1);
    expect(bitsPerWeight).toBeLessThanOrEqual(3.25);
  });

  it('chooses across methods, within a size of files that is kept to the byte', async () => {
    const across = makeChoices(choicesAcross(parseMethods('hqq,bnb,higgs'), { hadamardSize: 64 })).map((choice, i) => ({
      ...choice,
      error: () => 0.1 / (1 + i),
    }));
    expect(across.map(({ name }) => name.split(':')[0])).toEqual(expect.arrayContaining(['hqq', 'nf4', 'fp4', 'int8', 'higgs']));
    const sized = (targetSize: number | string) => allocated({ targetBits: undefined, targetSize, choices: across });
    const { message } = (await sized('3MB').catch((error: Error) => error as Error)) as Error;
    const least = Number(/smallest choices, (\d+)$/.exec(message)?.[1]);
    await expect(sized(least - 1)).rejects.toThrow(expect.objectContaining({ code: 'ERR_LIMIT' }));
    const smallest = await sized(least); // what it names can be asked for
    for (const [{ rules }, size] of [
      [smallest, least],
      [await sized('4.5MB'), 4_500_000],
    ] as const) {
      const plan = await planModel(TINY, { rules });
      expect(plan.weightBytes.after).toBeLessThanOrEqual(size);
      expect(plan.weightBytes.after).toBeGreaterThan(0.97 * size);
    }
  });

  it('measures errors of choices that say none, and keeps layers where that is a choice', async () => {
    const one = { rules: [{ match: ['model.layers.{1,2,3,4,5}.**', 'mlp.*'], use: 'keep' }] } as const;
    const { linears } = await allocated({ ...one, choices: makeChoices(['hqq:b2:g64', 'keep']), targetBits: 9 });
    expect(linears.map(({ choice }) => choice).sort()).toEqual(['hqq:b2:g64', 'hqq:b2:g64', 'keep', 'keep']);
    for (const { choice, error, bits } of linears) {
      if (choice === 'keep') expect([error, bits]).toEqual([0, 16]);
      else expect([error > 0.1 && error < 0.3, bits]).toEqual([true, 2.5]);
    }
  });

  it('tests on what the model says itself, the same every time, or on a text', async () => {
    const few = { rules: [{ match: ['model.layers.{0,1,2,3,4}.**', 'mlp.*'], use: 'keep' }], sensitivities: undefined, tokens: 6 } as const;
    const one = await allocated({ ...few, ids: 'self' });
    expect(one.sensitivities).toMatchObject({ on: 'self', tokens: 6 });
    expect(one.sensitivities.linears.map(({ path }) => path)).toEqual(one.linears.map(({ path }) => path));
    expect((await allocated({ ...few, ids: 'self' })).sensitivities).toEqual(one.sensitivities);
    const text = await allocated({
      ...few,
      ids: [
        [0, 5, 9],
        [0, 7, 7, 7, 7, 7, 7, 7],
      ],
      metric: 'perplexity',
    });
    expect([text.metric, text.sensitivities.on, text.sensitivities.tokens]).toEqual(['perplexity', 'text', 6]);
    const other = (await allocated({ ...few, ids: 'random-tokens' })).sensitivities.linears[0]!.sensitivity;
    expect(other).not.toBe(one.sensitivities.linears[0]!.sensitivity);
  });

  it('refuses before anything is measured', async () => {
    const refused = (code: string, message: RegExp) => expect.objectContaining({ code, message: expect.stringMatching(message) });
    const unmeasured = { sensitivities: undefined, backends: [] }; // running anything would be another error
    await expect(allocated({ targetBits: 2, ...unmeasured })).rejects.toThrow(
      refused('ERR_LIMIT', /fewer than the smallest choices take, 2.5/),
    );
    await expect(allocated({ targetBits: Number.NaN, ...unmeasured })).rejects.toThrow(refused('ERR_BAD_ARGUMENT', /targetBits/));
    await expect(allocated({ choices: [], ...unmeasured })).rejects.toThrow(refused('ERR_BAD_ARGUMENT', /no quantizer/));
    await expect(allocated({ choices: makeChoices(['keep']), ...unmeasured })).rejects.toThrow(refused('ERR_BAD_ARGUMENT', /no quantizer/));
    for (const wrong of [5, [null], [hqq({ bits: 4 })]]) {
      await expect(allocated({ choices: wrong as never, ...unmeasured })).rejects.toThrow(
        refused('ERR_BAD_ARGUMENT', /no list|without a name/),
      );
    }
    expect(() => makeChoices('hqq:b3' as never)).toThrow(refused('ERR_BAD_ARGUMENT', /no list of names/));
    await expect(allocated({ choices: [...choices, choices[0]!], ...unmeasured })).rejects.toThrow(refused('ERR_BAD_ARGUMENT', /twice/));
    const mixed = makeChoices(['hqq:b4:g64', 'nf4']);
    await expect(allocated({ choices: mixed, layout: 'hqq', ...unmeasured })).rejects.toThrow(
      refused('ERR_UNSUPPORTED_FORMAT', /layout hqq does not store these settings; mixed does/),
    );
    await expect(allocated({ targetSize: '4MB', ...unmeasured })).rejects.toThrow(
      refused('ERR_BAD_ARGUMENT', /either targetBits or targetSize/),
    );
    await expect(allocated({ targetBits: undefined, ...unmeasured })).rejects.toThrow(
      refused('ERR_BAD_ARGUMENT', /either targetBits or targetSize/),
    );
    await expect(allocated({ targetBits: undefined, targetSize: 0.5, ...unmeasured })).rejects.toThrow(
      refused('ERR_BAD_ARGUMENT', /targetSize is 0.5/),
    );
    await expect(allocated({ targetBits: undefined, targetSize: '3MB', ...unmeasured })).rejects.toThrow(
      refused('ERR_LIMIT', /3000000 bytes are fewer than the model takes with the smallest choices, \d+$/),
    );
    const rules = [{ match: '**', use: 'keep' }] as const;
    await expect(allocated({ rules, ...unmeasured })).rejects.toThrow(refused('ERR_BAD_ARGUMENT', /nothing to allocate/));
    await expect(allocated({ metric: 'perplexity', sensitivities: undefined })).rejects.toThrow(/random tokens means nothing/);
    const other = { ...sensitivities, linears: sensitivities.linears.slice(1) };
    await expect(allocated({ sensitivities: other })).rejects.toThrow(/have no linear model.layers.0.self_attn.q_proj/);
  });
});

describe('what is written', () => {
  it('choices', () => {
    expect(parseUse('nf4:g64:dq')).toEqual({ method: 'nf4', group: 64, doubleQuant: true });
    expect(parseChoices('hqq:b3, keep')).toEqual(['hqq:b3', 'keep']);
    for (const text of ['', 'hqq:b3,,keep', 'gptq:b4', 'hqq:b3,hqq:b3', 'hqq:t6']) expect(() => parseChoices(text)).toThrow();
    for (const method of ['hqq', 'nf4', 'fp4', 'int8', 'higgs'] as const)
      expect(makeChoices(defaultChoices(method)).length).toBeGreaterThan(1);
    expect(defaultChoices('hqq', { group: 32 })).toEqual(['hqq:b2:g32', 'hqq:b3:g32', 'hqq:b4:g32', 'hqq:b8:g32']);
  });

  it('saved sensitivities come back', () => {
    const value: unknown = JSON.parse(savedText(sensitivities));
    expect(isSaved(value)).toBe(true);
    expect(isSaved([1, 2])).toBe(false);
    expect(parseSaved(value, 'x.json')).toEqual(sensitivities);
    const saved = value as object;
    for (const broken of [
      { ...saved, linears: 3 },
      { ...saved, metric: 'x' },
      { ...saved, linears: [{ path: 'a' }] },
      { ...saved, on: 1 },
    ]) {
      expect(() => parseSaved(broken, 'x.json')).toThrow(expect.objectContaining({ message: expect.stringContaining('x.json') }));
    }
  });

  it('flags that need a target, or exclude it', async () => {
    const nothing = (): void => {};
    const quiet = { json: true, signal: new AbortController().signal, note: nothing, progress: { report: nothing, clear: nothing } };
    const run = (...args: string[]) => createProgram(() => quiet as never).parseAsync(['quantize', TINY, ...args], { from: 'user' });
    await expect(run('--dry-run', '--choices', 'hqq:b3')).rejects.toThrow('--choices needs --target-bits');
    await expect(run('--dry-run', '--sensitivity', 'random')).rejects.toThrow('--sensitivity needs --target-bits');
    await expect(run('--dry-run', '--target-bits', '3', '-b', '4')).rejects.toThrow('--bits and --target-bits exclude each other');
    await expect(run('--dry-run', '--target-bits', '3', '--measure', 'x.txt')).rejects.toThrow('--measure needs a model that is written');
    await expect(run('--dry-run', '--target-bits', 'three')).rejects.toThrow(/target-bits/);
    await expect(run('--dry-run', '--target-bits', '3', '--choices', 'hqq:b9')).rejects.toThrow(/choices/);
    await expect(run('--dry-run', '--target-bits', '3', '--sensitivity', '/nowhere/x.txt')).rejects.toThrow(
      '--sensitivity: /nowhere/x.txt is neither',
    );
    await expect(run('-o', '/nowhere/out', '--target-bits', '3', '--measure', '/nowhere/x.txt')).rejects.toThrow(/--measure: cannot read/);
  });

  it('ids that are none are refused with the flag they came by', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'lowbit-allocate-'));
    onTestFinished(() => rmSync(dir, { recursive: true }));
    const file = join(dir, 'ids.json');
    writeFileSync(file, '[1, -2]');
    const run = createProgram(
      () => ({ json: true, signal: new AbortController().signal, progress: { report: () => {} } }) as never,
    ).parseAsync(['quantize', TINY, '--dry-run', '--target-bits', '3', '--sensitivity', file], { from: 'user' });
    await expect(run).rejects.toThrow(/--sensitivity: .*-2 is no token id/);
  });
});

it('allocates a model with images: random tokens are those of its language model', async () => {
  const llava = fileURLToPath(new URL('../../../fixtures/golden/models/llava', import.meta.url));
  const small = makeChoices(['hqq:b2:g16', 'hqq:b4:g16']).map((choice, i) => ({ ...choice, error: () => [0.1, 0.01][i]! }));
  const rules = [{ match: ['**vision_tower**', '**multi_modal_projector**'], use: 'keep', optional: true }] as const;
  const { linears, sensitivities: tested } = await allocateModel(llava, { targetBits: 4.5, choices: small, rules, tokens: 8 });
  expect(tested).toMatchObject({ on: 'random-tokens', tokens: 8 });
  expect(linears.length).toBe(14);
});
