// Encoder-decoder models on the golden T5, against transformers.

import {
  createRuntime,
  type HostTensor,
  isLowbitError,
  type JsonObject,
  patchLinears,
  type Runtime,
  referenceBackend,
  toFloat32,
} from '@lowbit/core';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import * as golden from '../../../../fixtures/golden.ts';
import { t5 } from '../adapters/t5.ts';
import { benchModel } from '../evaluate/bench.ts';
import { checkpointImportance } from '../evaluate/importance.ts';
import { perplexity } from '../evaluate/perplexity.ts';
import { measureSensitivities } from '../evaluate/sensitivity.ts';
import { goldenContents, memoryCheckpoint } from '../testing/memory-checkpoint.ts';
import { estimateMemory } from './estimate.ts';
import type { LanguageModel } from './language-model.ts';
import { loadModel } from './load-model.ts';

const TOLERANCE = 2e-4;
const expected = golden.goldenTensors('models/t5-gated/expected.safetensors');
const contents = goldenContents(golden, 't5-gated');
const { config, tensors } = contents;
const ids = (name: string): number[] => Array.from(toFloat32(expected.get(name)!));
const prompt = ids('input_ids');
const text = ids('decoder_input_ids');
const OBSERVED = [0, 1, 2, 3]
  .map((k) => `encoder.hidden.${k}`)
  .concat(
    [0, 1, 2].map((k) => `decoder.hidden.${k}`),
    'decoder.final_norm',
  );

let runtime: Runtime;
let model: LanguageModel;
beforeAll(async () => {
  runtime = await createRuntime({ backends: [referenceBackend()] });
  model = await loadModel(memoryCheckpoint(contents), { runtime, observe: OBSERVED });
});
afterAll(async () => {
  await model[Symbol.asyncDispose]();
  expect((await runtime.backend()).allocated()).toBe(0);
  await runtime[Symbol.asyncDispose]();
});

function expectClose(got: HostTensor | Float32Array, want: Float32Array, scale = 1): void {
  const values = got instanceof Float32Array ? got : toFloat32(got);
  expect(values.length).toBe(want.length);
  const worst = values.reduce((most, value, i) => Math.max(most, Math.abs(value - want[i]!)), 0);
  expect(worst).toBeLessThanOrEqual(TOLERANCE * scale);
}
const largest = (values: Float32Array): number => values.reduce((most, x) => Math.max(most, Math.abs(x)), 1);

describe('against transformers', () => {
  test('what the encoder makes of a prompt', async () => {
    const outputs = await model.encode(prompt);
    expect(Object.keys(outputs).sort()).toEqual([...OBSERVED.filter((name) => name.startsWith('encoder')), 'encoder_output'].sort());
    for (const [name, got] of Object.entries(outputs)) {
      const want = toFloat32(expected.get(name)!);
      expectClose(got, want, largest(want));
    }
  });

  test.each([512, 5])('logits and hidden states of the decoder, in steps of %i', async (prefillChunk) => {
    await using chunked = await loadModel(memoryCheckpoint(contents), { runtime, observe: OBSERVED, prefillChunk });
    const outputs = await chunked.forward(text, { encoderIds: prompt });
    expectClose(outputs.logits!, toFloat32(expected.get('logits')!));
    for (const name of OBSERVED.filter((each) => each.startsWith('decoder'))) {
      const want = toFloat32(expected.get(name)!);
      expectClose(outputs[name]!, want, largest(want));
    }
    const rows: number[] = [];
    for await (const { logits } of chunked.logitRows(text, { from: 3, to: 9, encoderIds: prompt })) rows.push(...logits);
    expectClose(Float32Array.from(rows), toFloat32(expected.get('logits')!).subarray(3 * 200, 9 * 200));
  });

  test('greedy text, of one prompt and of two at once', async () => {
    const greedy = (tokens: readonly number[], maxTokens: number) =>
      model.generate({ ids: tokens, maxTokens, temperature: 0, ignoreEos: true });
    const result = await greedy(prompt, 16);
    expect(result.ids).toEqual(ids('generated'));
    expect(result.usage).toMatchObject({ promptTokens: prompt.length, completionTokens: 16, cachedTokens: 0 });
    const mask = ids('batch.attention_mask');
    const padded = ids('batch.input_ids');
    const length = padded.length / 2;
    const rows = [0, 1].map((row) => padded.slice(row * length, (row + 1) * length).filter((_, i) => mask[row * length + i] === 1));
    const results = await Promise.all(rows.map((tokens) => greedy(tokens, 8)));
    expect(results.flatMap((each) => each.ids)).toEqual(ids('batch.generated'));
    const shared = await model.generateBatch(rows.map((tokens) => ({ ids: tokens, maxTokens: 8, temperature: 0, ignoreEos: true })));
    expect(shared.flatMap((each) => each.ids)).toEqual(ids('batch.generated'));
    const guessed = await model.generate({ ids: prompt, maxTokens: 16, temperature: 0, ignoreEos: true, promptLookup: {} });
    expect(guessed.ids).toEqual(ids('generated'));
  });

  test('the same programs from the config of transformers 5', async () => {
    const described = (own: JsonObject) => t5.describe(own, { entries: tensors, read: async (name) => tensors.get(name)! });
    const recent = golden.goldenJson<JsonObject>('models/t5-gated/config.v5.json');
    expect(await described(recent)).toEqual(await described(config));
  });
});

describe('its linears', () => {
  test('of both stacks, and which stay in floating point', () => {
    const sites = t5.linears(config, tensors);
    expect(sites.length).toBe(3 * 7 + 2 * 11 + 1);
    expect(sites.filter(({ keep }) => keep).length).toBe(6);
    expect(new Set(sites.filter(({ keep }) => keep).map(({ tag }) => tag.split('.').at(-1)))).toEqual(new Set(['wo', 'lm_head']));
    for (const { path, shape } of sites) expect(tensors.get(`${path}.weight`)!.shape, path).toEqual(shape);
  });

  test('can be replaced in the loaded model', async () => {
    await using own = await loadModel(memoryCheckpoint(contents), { runtime });
    const before = own.memory().weights;
    const zero = { method: 'zero', config: {}, identity: 'zero', spec: 1 as const };
    const quantizer = {
      ...zero,
      format: () => ({ kind: 'dense' as const, dtype: 'bf16' as const }),
      quantize: async (_: unknown, __: unknown, out: { write(part: string, at: number, data: Uint8Array): Promise<void> }) => {
        await out.write('weight', 0, new Uint8Array(2 * 32 * 48));
        return { squaredError: 0, squaredWeight: 1, maxAbs: 0 };
      },
    };
    const rules = ['encoder.block.1.layer.0.SelfAttention.v', 'decoder.block.1.layer.1.EncDecAttention.q'].map((match) => ({
      match,
      use: quantizer as never,
    }));
    expect((await patchLinears(own, rules, { runtime })).length).toBe(2);
    expect(toFloat32((await own.weight(rules[0]!.match)).weight).every((value) => value === 0)).toBe(true);
    expect(own.backend(rules[1]!.match)).toBe('reference');
    expect(own.memory().weights).toBe(before);
    const changed = toFloat32(await own.logits(text, { encoderIds: prompt }));
    expect(changed.some((value, i) => Math.abs(value - toFloat32(expected.get('logits')!)[i]!) > 1e-2)).toBe(true);
  });
});

describe('refusals', () => {
  test('a text without its prompt, and what is for decoders alone', async () => {
    await expect(model.logits(text)).rejects.toMatchObject({
      code: 'ERR_BAD_ARGUMENT',
      hint: expect.stringContaining('beginning with token 0'),
    });
    await expect(perplexity(model, text)).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
    await expect(benchModel(model, { prompt: 4 })).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED_ARCH' });
    await using cache = model.promptCache();
    await expect(model.generate({ ids: prompt, promptCache: cache })).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
    const checkpoint = memoryCheckpoint(contents);
    await expect(estimateMemory(checkpoint, { runtime })).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED_ARCH' });
    await expect(checkpointImportance(checkpoint, { runtime, ids: [prompt] })).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED_ARCH' });
    await expect(measureSensitivities(checkpoint, { runtime, ids: [prompt] })).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED_ARCH' });
    await expect(loadModel(checkpoint, { runtime, cut: [{ backend: 'reference', layers: 2 }] })).rejects.toMatchObject({
      code: 'ERR_BAD_ARGUMENT',
    });
    await expect(loadModel(checkpoint, { runtime, deviceMap: 'auto' })).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
    await using placed = await loadModel(checkpoint, {
      runtime,
      deviceMap: { '': 'reference', 'decoder.block.1': 'reference', lm_head: 'reference' },
    });
    expect(placed.placement.length).toBeGreaterThan(1);
    await expect(loadModel(checkpoint, { runtime, observe: ['hidden.0'] })).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
    await using llama = await loadModel(memoryCheckpoint(goldenContents(golden, 'llama-tied')), { runtime });
    await expect(llama.logits([1], { encoderIds: [1] })).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
    await expect(llama.encode([1])).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
  });

  test.each<[string, JsonObject]>([
    ['feed_forward_proj', { feed_forward_proj: 'gated-gelu-more' }],
    ['d_model', { d_model: -1 }],
    ['num_heads', { num_heads: 1e12 }],
    ['relative_attention_num_buckets', { relative_attention_num_buckets: 6 }],
    ['relative_attention_max_distance', { relative_attention_max_distance: 4 }],
    ['decoder_start_token_id', { decoder_start_token_id: 200 }],
    ['encoder.block.2.', { num_layers: 2 }],
    ['decoder.block.1.', { num_decoder_layers: 1 }],
  ])('%s', (named, change) => {
    expect(() => t5.linears({ ...config, ...change }, tensors)).toThrow(
      expect.objectContaining({
        code: expect.stringMatching(/ERR_(BAD_CHECKPOINT|UNSUPPORTED_ARCH|TENSOR_MISMATCH)/),
        message: expect.stringContaining(named),
      }),
    );
  });

  test('any config.json gives its linears or a typed error', () => {
    const value = fc.oneof(
      fc.constantFrom<unknown>(null, true, '', [], {}, Number.NaN, -1, 0, 0.5, 3, 1e12, 2 ** 31),
      fc.integer({ min: 1, max: 64 }),
    );
    fc.assert(
      fc.property(fc.dictionary(fc.constantFrom(...Object.keys(config)), value, { minKeys: 1, maxKeys: 3 }), (change) => {
        try {
          t5.linears({ ...config, ...(change as JsonObject) }, tensors);
        } catch (error) {
          if (!isLowbitError(error)) throw error;
        }
      }),
      { numRuns: 100 },
    );
  });

  test('tensors that are missing, and copies of the table that may be there', async () => {
    const describeWith = (own: ReadonlyMap<string, HostTensor>) =>
      t5.describe(config, { entries: own, read: async (name) => own.get(name)! });
    const without = new Map(tensors);
    without.delete('decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight');
    await expect(describeWith(without)).rejects.toMatchObject({
      code: 'ERR_TENSOR_MISMATCH',
      message: expect.stringContaining('relative_attention_bias'),
    });
    const table = tensors.get('shared.weight')!;
    await describeWith(new Map([...tensors, ['encoder.embed_tokens.weight', table]]));
    const renamed = new Map([...tensors].map(([name, tensor]) => [name.replace('shared', 'encoder.embed_tokens'), tensor]));
    expect((await describeWith(renamed)).program.linears[0]!.path).toBe('encoder.embed_tokens');
    const tied = new Map(tensors);
    tied.delete('lm_head.weight');
    const { program } = await t5.describe(
      { ...config, tie_word_embeddings: true },
      { entries: tied, read: async (name) => tied.get(name)! },
    );
    expect(program.ops.find(({ op }) => op === 'scale')).toMatchObject({ factor: 48 ** -0.5 });
    expect(program.linears.find(({ path }) => path === 'shared')).toMatchObject({ use: 'both' });
  });
});
