// The families of decoders with the packages around them: every golden model from its files on the native backend, and models that are quantized, saved,
// loaded and run. What the reference backend makes of the golden models: packages/models/src/model/golden.thorough.test.ts.

import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fp4, int8, nf4 } from '@lowbit/bnb';
import {
  createRuntime,
  type HostTensor,
  type JsonObject,
  patchLinears,
  type Quantizer,
  type Rule,
  type Runtime,
  referenceBackend,
  toFloat32,
} from '@lowbit/core';
import { higgs } from '@lowbit/higgs';
import { hqq } from '@lowbit/hqq';
import { createSafetensorsSink, openCheckpoint, quantizeCheckpoint } from '@lowbit/hub';
import { cpu } from '@lowbit/kernels-cpu';
import { checkpointImportance, defaultAdapters, type LanguageModel, loadModel, measureSensitivities } from '@lowbit/models';
import { allocateModel, openModelFolder, planModel, quantizeModel } from 'lowbit';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import * as golden from '../fixtures/golden.ts';
import { needs } from '../fixtures/needs.ts';
import { inspect } from '../packages/cli/src/commands/inspect.ts';
import { goldenModels } from '../packages/models/src/testing/golden-models.ts';
import { fuseExperts, goldenContents } from '../packages/models/src/testing/memory-checkpoint.ts';
import { difference, relativeDifference, TOLERANCE } from './families/run.ts';

const { folders } = goldenModels(golden);
const probe = await cpu().probe();
const addon = (context: { skip(reason: string): void }): void => needs(context, 'kernels-cpu', probe.ok, probe.ok ? '' : probe.reason);

const ids = (tensor: HostTensor): number[] => Array.from(toFloat32(tensor));

let dir = '';
let reference: Runtime;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'lowbit-families-'));
  reference = await createRuntime({ backends: [referenceBackend()] });
  await fusedFolder();
});
afterAll(async () => {
  await reference[Symbol.asyncDispose]();
  await rm(dir, { recursive: true, force: true });
});

/** The golden Mixtral with its experts in 3-D tensors, as files. */
async function fusedFolder(): Promise<void> {
  const { config, tensors } = fuseExperts(goldenContents(golden, 'mixtral-published'));
  const sink = await createSafetensorsSink(join(dir, 'mixtral-fused'), { fingerprint: 'test' });
  await sink.reserve(new Map([...tensors].map(([name, { dtype, shape }]) => [name, { dtype, shape }])), { format: 'pt' });
  for (const [name, { data }] of tensors) await sink.write(name, 0, data);
  await sink.close();
  await writeFile(join(dir, 'mixtral-fused', 'config.json'), JSON.stringify(config));
}

const folderOf = (name: string): string => (name === 'mixtral-fused' ? join(dir, name) : golden.goldenPath(`models/${name}`));
const expectedOf = (name: string): Map<string, HostTensor> =>
  golden.goldenTensors(`models/${name === 'mixtral-fused' ? 'mixtral-published' : name}/expected.safetensors`);

describe('golden models from their files on the native backend, exactly', () => {
  it.each([...folders.filter((folder) => folder !== 'mixtral-fused'), 'mixtral-fused'])('%s', async (name, context) => {
    addon(context as never);
    const expected = expectedOf(name);
    const prompt = ids(expected.get('input_ids')!);
    await using runtime = await createRuntime({ backends: [cpu({ threads: 2, precision: 'exact' })] });
    await using checkpoint = await openCheckpoint(folderOf(name));
    const layers = (checkpoint.config.num_hidden_layers ?? checkpoint.config.n_layer) as number;
    const observe = [...Array.from({ length: layers + 1 }, (_, k) => `hidden.${k}`), 'final_norm'];
    await using model = await loadModel(checkpoint, { runtime, observe });
    const outputs = await model.forward(prompt);
    expect(difference(outputs.logits!, expected.get('logits')!)).toBeLessThanOrEqual(TOLERANCE);
    for (const each of observe) {
      const want = expected.get(each) ?? expected.get('project_out')!;
      expect(relativeDifference(outputs[each]!, want), each).toBeLessThanOrEqual(TOLERANCE);
    }
    await using chunked = await loadModel(checkpoint, { runtime, prefillChunk: 7 });
    expect(difference(await chunked.logits(prompt), expected.get('logits')!)).toBeLessThanOrEqual(TOLERANCE);
    const want = ids(expected.get('generated')!);
    for (const each of [model, chunked]) {
      expect((await each.generate({ ids: prompt, maxTokens: want.length, temperature: 0, ignoreEos: true })).ids).toEqual(want);
    }
  });
});

interface Trip {
  readonly model: string;
  readonly method: string;
  readonly use: Quantizer;
  readonly rules?: readonly Rule[];
  /** How many linears are quantized. */
  readonly count: number;
}

const hqq4 = hqq({ bits: 4, groupSize: 16 });
const trips: readonly Trip[] = [
  { model: 'gpt2', method: 'nf4', use: nf4({ doubleQuant: true }), count: 8 },
  { model: 'gpt2', method: 'int8', use: int8(), count: 8 },
  { model: 'gpt-neox', method: 'hqq', use: hqq4, count: 8 },
  { model: 'gpt-neox', method: 'fp4', use: fp4(), rules: [{ match: 'attention.query_key_value', use: 'keep' }], count: 6 },
  { model: 'bloom', method: 'hqq', use: hqq4, count: 8 },
  { model: 'opt-postnorm', method: 'nf4', use: nf4(), count: 14 },
  { model: 'phi', method: 'int8', use: int8(), count: 12 },
  { model: 'phi3-longrope', method: 'hqq', use: hqq4, count: 8 },
  { model: 'gemma3', method: 'hqq', use: hqq4, count: 21 },
  { model: 'starcoder2', method: 'higgs', use: higgs({ bits: 4, groupSize: 64, hadamardSize: 64 }), count: 12 },
  { model: 'olmo2', method: 'nf4', use: nf4(), count: 14 },
  {
    model: 'mixtral-published',
    method: 'hqq',
    use: hqq4,
    rules: [{ match: 'block_sparse_moe.experts.*.w1', use: hqq({ bits: 2, groupSize: 16 }) }],
    count: 32,
  },
  { model: 'mixtral-published', method: 'nf4', use: nf4(), count: 32 },
  { model: 'mixtral-fused', method: 'hqq', use: hqq4, count: 24 },
  {
    model: 'mixtral-fused',
    method: 'int8',
    use: int8({ threshold: 0 }),
    rules: [{ match: 'mlp.experts.1.gate_up_proj', use: 'keep' }],
    count: 22,
  },
  { model: 'mixtral-fused', method: 'nf4', use: nf4(), rules: [{ match: 'mlp.experts.**', use: 'keep' }], count: 8 },
  { model: 'qwen2-moe', method: 'nf4', use: nf4(), rules: [{ match: 'mlp.gate', use: nf4() }], count: 46 },
  { model: 'qwen3-moe', method: 'hqq', use: hqq4, count: 51 },
];

describe('quantized, saved, loaded and run', () => {
  it.each(trips)('$model with $method, $count linears', async ({ model, method, use, rules = [], count }) => {
    const out = join(dir, `${model}-${method}-${count}`);
    await using source = await openCheckpoint(folderOf(model));
    const { plan } = await quantizeCheckpoint(source, { out, quantizer: use, rules, adapters: defaultAdapters });
    await using checkpoint = await openCheckpoint(out);
    expect(checkpoint.quantized.size).toBe(count);
    const { model_type } = checkpoint.config as JsonObject;
    expect(model_type).toBe(source.config.model_type);

    // Names of the source stay: those of modules for what is quantized, those of tensors for everything else.
    const stacked = new Map(plan.linears.flatMap(({ site }) => (site.stacked ? [[site.path, site.stacked.tensor] as const] : [])));
    for (const name of source.source.entries.keys()) {
      const path = name.replace(/\.weight$/, '');
      const split = [...stacked].filter(([, tensor]) => tensor === name).map(([own]) => own);
      if (checkpoint.quantized.has(path) || split.some((own) => checkpoint.quantized.has(own))) continue;
      expect(checkpoint.source.entries.has(name), name).toBe(true);
    }
    for (const path of checkpoint.quantized.keys()) {
      const base = stacked.get(path) ?? `${path}.weight`;
      expect(source.source.entries.has(base), base).toBe(true);
    }

    // The same weights, quantized in the loaded model, give the same numbers.
    const expected = expectedOf(model);
    const prompt = ids(expected.get('input_ids')!);
    const greedy = { ids: prompt, maxTokens: 8, temperature: 0, ignoreEos: true };
    await using patched = await loadModel(source, { runtime: reference });
    const chosen = [...plan.linears].flatMap(({ site, use: own }) => (own === 'keep' ? [] : [{ match: site.path, use: own as Quantizer }]));
    expect((await patchLinears(patched, chosen, { runtime: reference })).length).toBe(count);
    await using loaded = await loadModel(checkpoint, { runtime: reference });
    const logits = await loaded.logits(prompt);
    expect(difference(logits, await patched.logits(prompt))).toBe(0);
    const text = (await loaded.generate(greedy)).ids;
    expect(text).toEqual((await patched.generate(greedy)).ids);
    expect(difference(logits, expected.get('logits')!)).toBeGreaterThan(0); // it is another model than the float one
    if (probe.ok) await onNative(checkpoint, loaded, prompt);
  });

  async function onNative(
    checkpoint: Awaited<ReturnType<typeof openCheckpoint>>,
    loaded: LanguageModel,
    prompt: readonly number[],
  ): Promise<void> {
    await using runtime = await createRuntime({ backends: [cpu({ threads: 2, precision: 'exact' })] });
    await using native = await loadModel(checkpoint, { runtime });
    // The numbers of the NF4 table are held as integers there, off by up to 2^-16 of the largest: see the README of kernels-cpu.
    const tolerance = /nf4/.test(checkpoint.label) ? 1e-3 : TOLERANCE;
    expect(difference(await native.logits(prompt), await loaded.logits(prompt))).toBeLessThanOrEqual(tolerance);
  }

  it.each(Object.entries(golden.goldenJson<Record<string, { tensors: number; sha256: string }>>('bnb/families.json')))(
    '%s: the tensors that transformers and bitsandbytes save',
    async (name, expected) => {
      const [model, method] = name.split(' ') as [string, 'nf4' | 'int8'];
      const out = join(dir, `equal-${model}-${method}`);
      await using source = await openCheckpoint(folderOf(model));
      await quantizeCheckpoint(source, { out, quantizer: method === 'nf4' ? nf4() : int8(), adapters: defaultAdapters });
      const file = await readFile(join(out, 'model.safetensors'));
      const end = 8 + Number(file.readBigUInt64LE(0));
      const header = JSON.parse(file.toString('utf8', 8, end)) as Record<
        string,
        { dtype: string; shape: number[]; data_offsets: [number, number] }
      >;
      const names = Object.keys(header).filter((each) => each !== '__metadata__');
      const digest = createHash('sha256');
      for (const each of names.sort()) {
        const { dtype, shape, data_offsets } = header[each]!;
        digest.update(`${each}\n${dtype}\n${JSON.stringify(shape)}\n`);
        digest.update(file.subarray(end + data_offsets[0], end + data_offsets[1]));
      }
      expect({ tensors: names.length, sha256: digest.digest('hex') }).toEqual(expected);
    },
  );

  it.each([
    ['hqq', hqq4],
    ['higgs', higgs({ bits: 4, groupSize: 64, hadamardSize: 64 })],
  ])('Conv1D modules of GPT-2 are refused with %s, as Python passes over them', async (_, quantizer) => {
    await using source = await openCheckpoint(folderOf('gpt2'));
    const attempt = quantizeCheckpoint(source, { out: join(dir, 'refused'), quantizer, adapters: defaultAdapters });
    await expect(attempt).rejects.toMatchObject({
      code: 'ERR_UNSUPPORTED_FORMAT',
      message: expect.stringContaining('h.0.attn.c_attn'),
      hint: expect.stringContaining('nf4'),
    });
  });

  it('experts that were one tensor are said to load in lowbit alone', async () => {
    await using source = await openCheckpoint(folderOf('mixtral-fused'));
    const { loadsIn } = await quantizeCheckpoint(source, { out: join(dir, 'said'), quantizer: nf4(), adapters: defaultAdapters });
    expect(loadsIn.join('\n')).toMatch(/lowbit alone reads model\.layers\.0\.mlp\.experts\.0\.gate_up_proj.* and 13 more/);
  });
});

describe('T5, an encoder and a decoder', () => {
  const expected = golden.goldenTensors('models/t5-gated/expected.safetensors');
  const [prompt, text] = ['input_ids', 'decoder_input_ids'].map((name) => ids(expected.get(name)!));
  const greedy = { ids: prompt!, maxTokens: 16, temperature: 0, ignoreEos: true };

  it('from its files on the native backend, exactly', async (context) => {
    addon(context);
    await using runtime = await createRuntime({ backends: [cpu({ threads: 2, precision: 'exact' })] });
    await using checkpoint = await openCheckpoint(folderOf('t5-gated'));
    const observe = ['encoder.hidden.0', 'encoder.hidden.3', 'decoder.hidden.0', 'decoder.hidden.2', 'decoder.final_norm'];
    await using model = await loadModel(checkpoint, { runtime, observe });
    const outputs = { ...(await model.encode(prompt!)), ...(await model.forward(text!, { encoderIds: prompt! })) };
    expect(difference(outputs.logits!, expected.get('logits')!)).toBeLessThanOrEqual(TOLERANCE);
    for (const name of [...observe, 'encoder_output']) {
      expect(relativeDifference(outputs[name]!, expected.get(name)!), name).toBeLessThanOrEqual(TOLERANCE);
    }
    expect((await model.generate(greedy)).ids).toEqual(ids(expected.get('generated')!));
  });

  it.each([
    ['hqq', hqq4],
    ['nf4', nf4()],
  ])('quantized with %s, saved, loaded and run', async (method, quantizer) => {
    const out = join(dir, `t5-${method}`);
    await using source = await openCheckpoint(folderOf('t5-gated'));
    const { plan } = await quantizeCheckpoint(source, { out, quantizer, adapters: defaultAdapters });
    await using checkpoint = await openCheckpoint(out);
    expect(checkpoint.quantized.size).toBe(3 * 6 + 2 * 10);
    expect(plan.linears.filter(({ use }) => use === 'keep').every(({ site }) => /wo$|lm_head/.test(site.path))).toBe(true);
    await using patched = await loadModel(source, { runtime: reference });
    const chosen = plan.linears.flatMap(({ site, use }) => (use === 'keep' ? [] : [{ match: site.path, use: use as Quantizer }]));
    await patchLinears(patched, chosen, { runtime: reference });
    await using loaded = await loadModel(checkpoint, { runtime: reference });
    const logits = await loaded.logits(text!, { encoderIds: prompt! });
    expect(difference(logits, await patched.logits(text!, { encoderIds: prompt! }))).toBe(0);
    expect(difference(logits, expected.get('logits')!)).toBeGreaterThan(0);
    expect((await loaded.generate(greedy)).ids).toEqual((await patched.generate(greedy)).ids);
  });
});

describe('what else looks at linears', () => {
  it('a plan, an allocation of bits and importances, on experts that are one tensor', async () => {
    const folder = folderOf('mixtral-fused');
    const plan = await planModel(folder, { rules: [{ match: 'mlp.experts.down_proj', use: 'keep' }], quantizer: hqq4 });
    const byTag = new Map(plan.tags.map((row) => [row.tag, row]));
    expect(byTag.get('mlp.experts.down_proj')).toMatchObject({ linears: 8, quantized: false, weights: 8 * 64 * 64 });
    expect(byTag.get('mlp.experts.gate_up_proj')).toMatchObject({ linears: 8, quantized: true, weights: 8 * 128 * 64 });

    await using checkpoint = await openModelFolder(folder);
    const { tags } = (await inspect(checkpoint)).quantization;
    expect(tags.map(({ tag }) => tag)).toEqual([...byTag.keys()]);

    const choices = ([2, 4] as const).map((bits) => ({ name: `${bits} bits`, use: hqq({ bits, groupSize: 16 }) }));
    const allocation = await allocateModel(folder, { targetBits: 5, choices, backends: [referenceBackend()] });
    expect(allocation.linears.map(({ path }) => path)).not.toContain('model.layers.0.mlp.gate');
    expect(allocation.linears.length).toBe(24);
    expect(new Set(allocation.linears.map(({ choice }) => choice)).size).toBe(2);

    const importance = await checkpointImportance(checkpoint, {
      runtime: reference,
      ids: [Array.from({ length: 64 }, (_, i) => (7 * i) % 300)],
    });
    expect(importance.get('model.layers.1.mlp.experts.2.down_proj')!.moments.shape).toEqual([64]);
    const out = join(dir, 'allocated');
    await quantizeModel(folder, { out, rules: allocation.rules, quantizer: hqq4, importance });
    await using result = await openCheckpoint(out);
    await using model = await loadModel(result, { runtime: reference });
    expect((await model.generate({ ids: [5, 6, 7], maxTokens: 3, temperature: 0, ignoreEos: true })).ids.length).toBe(3);
  });

  it('importances and sensitivities of Conv1D modules', async () => {
    await using checkpoint = await openCheckpoint(folderOf('gpt2'));
    const ids = [Array.from({ length: 24 }, (_, i) => (11 * i) % 300)];
    const importance = await checkpointImportance(checkpoint, { runtime: reference, ids });
    expect(importance.get('transformer.h.0.mlp.c_proj')!.moments.shape).toEqual([256]);
    const { linears } = await measureSensitivities(checkpoint, { runtime: reference, ids });
    expect(linears.map(({ path }) => path)).toContain('transformer.h.1.attn.c_attn');
    for (const { sensitivity } of linears) expect(sensitivity).toBeGreaterThan(0);
  });
});
