// Every decoder that transformers ran for us, on the reference backend. On kernels-cpu: e2e/models-cpu.test.ts.

import { adapterFor, createRuntime, type HostTensor, type Runtime, referenceBackend, toFloat32 } from '@lowbit/core';
import { loadProgram } from '@lowbit/program';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import * as golden from '../../../../fixtures/golden.ts';
import { defaultAdapters } from '../adapters/index.ts';
import { goldenModels } from '../testing/golden-models.ts';
import { fuseExperts, goldenContents, memoryCheckpoint } from '../testing/memory-checkpoint.ts';
import type { LanguageModel } from './language-model.ts';
import { loadModel } from './load-model.ts';
import { logicalModel, weightReader } from './stored.ts';

const LOGITS_TOLERANCE = 2e-4;

const { folders, absent } = goldenModels(golden);

/** With mixtures under the names of transformers 5, their experts in 3-D tensors: the first is what `mixtral-fused` is. */
const cases = [
  ...folders.map((folder) => ({ name: folder, folder, contents: goldenContents(golden, folder) })),
  ...folders
    .filter((folder) => ['mixtral-published', 'qwen2-moe', 'qwen3-moe'].includes(folder))
    .map((folder) => ({
      name: `${folder}, experts fused`,
      folder,
      contents: fuseExperts(goldenContents(golden, folder)),
    })),
];

test('the cases that are not here repeat others', () => {
  expect(absent).toEqual(process.env.LOWBIT_GOLDEN_MODELS ? [] : ['mistral-full', 'mixtral-fused', 'phi3', 'qwen2']);
});

let runtime: Runtime;
beforeAll(async () => {
  runtime = await createRuntime({ backends: [referenceBackend()] });
});
afterAll(() => runtime[Symbol.asyncDispose]());

const ids = (tensor: HostTensor): number[] => Array.from(toFloat32(tensor));
/** Rows [from, to) of a tensor whose last axis is `width`. */
const rows = (tensor: HostTensor, width: number, from: number, to: number): Float32Array =>
  toFloat32(tensor).subarray(from * width, to * width);

function maxDifference(got: Float32Array, expected: Float32Array): number {
  expect(got.length).toBe(expected.length);
  let worst = 0;
  for (let i = 0; i < got.length; i++) worst = Math.max(worst, Math.abs(got[i]! - expected[i]!));
  return Number.isNaN(got.reduce((sum, x) => sum + x, 0)) ? Number.NaN : worst;
}

describe.each(cases)('$name', ({ folder, contents }) => {
  const expected = golden.goldenTensors(`models/${folder}/expected.safetensors`);
  const layers = (contents.config.num_hidden_layers ?? contents.config.n_layer) as number;
  const vocab = contents.config.vocab_size as number;
  const prompt = ids(expected.get('input_ids')!);
  const hidden = Array.from({ length: layers + 1 }, (_, k) => `hidden.${k}`);
  // Of a model with a projection in front of its head, what comes out of that.
  const expectedName = (name: string): string => (name === 'final_norm' && !expected.has(name) ? 'project_out' : name);
  let model: LanguageModel;
  beforeAll(async () => {
    model = await loadModel(memoryCheckpoint(contents), { runtime, observe: [...hidden, 'final_norm'] });
  });
  afterAll(() => model[Symbol.asyncDispose]());

  test('logits of all positions and hidden states', async () => {
    const outputs = await model.forward(prompt);
    expect(outputs.logits!.shape).toEqual([prompt.length, vocab]);
    expect(maxDifference(toFloat32(outputs.logits!), toFloat32(expected.get('logits')!))).toBeLessThanOrEqual(LOGITS_TOLERANCE);
    for (const name of [...hidden, 'final_norm']) {
      const want = toFloat32(expected.get(expectedName(name))!);
      const scale = Math.max(
        1,
        want.reduce((most, x) => Math.max(most, Math.abs(x)), 0),
      );
      expect(maxDifference(toFloat32(outputs[name]!), want), name).toBeLessThanOrEqual(LOGITS_TOLERANCE * scale);
    }
  });

  test('chunked prefill', async () => {
    await using chunked = await loadModel(memoryCheckpoint(contents), { runtime, prefillChunk: 7 });
    const logits = await chunked.logits(prompt);
    expect(maxDifference(toFloat32(logits), toFloat32(expected.get('logits')!))).toBeLessThanOrEqual(LOGITS_TOLERANCE);
  });

  test('greedy continuation, with and without chunks', async () => {
    const want = ids(expected.get('generated')!);
    const greedy = { ids: prompt, maxTokens: want.length, temperature: 0, ignoreEos: true };
    const result = await model.generate(greedy);
    expect(result.ids).toEqual(want);
    expect(result).toMatchObject({
      finishReason: 'length',
      text: '',
      usage: { promptTokens: prompt.length, completionTokens: want.length },
    });
    await using chunked = await loadModel(memoryCheckpoint(contents), { runtime, prefillChunk: 8 });
    expect((await chunked.generate(greedy)).ids).toEqual(want);
  });

  test('cached steps, one token at a time', async () => {
    const generated = ids(expected.get('generated')!);
    const want = expected.get('generated_logits')!;
    const program = await loadedProgram();
    const sequence = program.open();
    let step = await program.step([{ id: sequence, tokens: Uint32Array.from(prompt) }]);
    for (const [i, token] of generated.entries()) {
      expect(maxDifference(toFloat32(step.logits!), rows(want, vocab, i, i + 1)), `step ${i}`).toBeLessThanOrEqual(LOGITS_TOLERANCE);
      step = await program.step([{ id: sequence, tokens: Uint32Array.of(token) }]);
    }
    await program[Symbol.asyncDispose]();
  });

  test('two prompts of different length in one step, and their continuations', async () => {
    const mask = ids(expected.get('batch.attention_mask')!);
    const padded = ids(expected.get('batch.input_ids')!);
    const length = padded.length / 2;
    const prompts = [0, 1].map((row) => padded.slice(row * length, (row + 1) * length).filter((_, i) => mask[row * length + i] === 1));
    const program = await loadedProgram();
    const sequences = prompts.map(() => program.open());
    const all = await program.step(
      prompts.map((tokens, i) => ({ id: sequences[i]!, tokens: Uint32Array.from(tokens), wanted: Uint32Array.from(tokens.keys()) })),
    );
    let at = 0;
    const next: number[] = [];
    for (const [row, tokens] of prompts.entries()) {
      const want = rows(expected.get('batch.logits')!, vocab, (row + 1) * length - tokens.length, (row + 1) * length);
      const got = rows(all.logits!, vocab, at, at + tokens.length);
      expect(maxDifference(got, want)).toBeLessThanOrEqual(LOGITS_TOLERANCE);
      at += tokens.length;
      next.push(best(got.subarray(-vocab)));
    }
    const continued: number[][] = next.map((token) => [token]);
    while (continued[0]!.length < 8) {
      const step = await program.step(continued.map((tokens, i) => ({ id: sequences[i]!, tokens: Uint32Array.of(tokens.at(-1)!) })));
      for (const [i, tokens] of continued.entries()) tokens.push(best(rows(step.logits!, vocab, i, i + 1)));
    }
    expect(continued.flat()).toEqual(ids(expected.get('batch.generated')!));
    await program[Symbol.asyncDispose]();
  });

  const best = (logits: Float32Array): number => logits.indexOf(Math.max(...logits));

  async function loadedProgram() {
    const checkpoint = memoryCheckpoint(contents);
    const adapter = adapterFor(contents.config, defaultAdapters);
    const logical = logicalModel(checkpoint, adapter);
    const read = weightReader(checkpoint, logical);
    const { program, contextLength } = await adapter.describe(contents.config, {
      entries: logical.entries,
      read: async (name) => contents.tensors.get(name)!,
    });
    return loadProgram(
      runtime,
      program,
      async (use) => ({
        weight: await read(use),
        ...(use.bias === undefined ? {} : { bias: program.constants[use.bias]! }),
      }),
      { contextLength },
    );
  }
});
