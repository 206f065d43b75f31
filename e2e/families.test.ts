// The operations of programs, proven on models of transformers: one small program a family, written by hand, against what Python computed.

import { createRuntime, float32Tensor, type Program, type Runtime, referenceBackend, toFloat32 } from '@lowbit/core';
import type { LoadedProgram } from '@lowbit/models';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { bloom } from './families/bloom.ts';
import { type ClipVisionConfig, clipVision, patchRows } from './families/clip.ts';
import { gemma2 } from './families/gemma2.ts';
import { gptNeox } from './families/gpt-neox.ts';
import { type LlamaLikeConfig, llamaLike } from './families/llama-like.ts';
import { type LlavaConfig, llavaText, llavaVision } from './families/llava.ts';
import { mixtral, qwen2Moe } from './families/moe.ts';
import { optPostnorm } from './families/opt.ts';
import type { Tensors } from './families/parts.ts';
import { phi3 } from './families/phi3.ts';
import { continueAll, difference, every, Golden, load, relativeDifference, TOLERANCE } from './families/run.ts';
import { type T5Config, t5, t5Decoder, t5Encoder } from './families/t5.ts';

let runtime: Runtime;
beforeAll(async () => {
  runtime = await createRuntime({ backends: [referenceBackend()] });
});
afterAll(() => runtime[Symbol.asyncDispose]());

interface Family {
  readonly folder: string;
  open(): { readonly golden: Golden<unknown>; readonly program: Program };
}

function family<C>(folder: string, build: (config: C, tensors: Tensors) => Program): Family {
  return {
    folder,
    open() {
      const golden = new Golden<C>(folder);
      return { golden, program: build(golden.config, golden.tensors) };
    },
  };
}

interface GraniteConfig extends LlamaLikeConfig {
  readonly embedding_multiplier: number;
  readonly attention_multiplier: number;
  readonly residual_multiplier: number;
  readonly logits_scaling: number;
}

const families: readonly Family[] = [
  family('bloom', bloom),
  family('gemma2', gemma2),
  family('gpt-neox', gptNeox),
  family('granite', (config: GraniteConfig, tensors) =>
    llamaLike(config, tensors, {
      embeddingScale: config.embedding_multiplier,
      attentionScale: config.attention_multiplier,
      residualFactor: config.residual_multiplier,
      logitsFactor: 1 / config.logits_scaling,
    }),
  ),
  family('mixtral-published', mixtral),
  family('opt-postnorm', optPostnorm),
  family('phi3-longrope', phi3),
  family('qwen2-moe', qwen2Moe),
  family('qwen3', (config: LlamaLikeConfig, tensors) => llamaLike(config, tensors, { headNorms: true })),
];

describe.each(families)('$folder', ({ open }) => {
  const { golden, program } = open();
  let model: LoadedProgram;
  beforeAll(async () => {
    model = await load(runtime, program, golden.tensors);
  });
  afterAll(() => model[Symbol.asyncDispose]());

  it('has the logits and hidden states of all positions', async () => {
    const tokens = golden.ids('input_ids');
    const outputs = await model.step([{ id: model.open(), tokens, wanted: every(tokens) }]);
    expect(Object.keys(outputs)).toHaveLength(program.layers + 2);
    for (const [name, got] of Object.entries(outputs)) {
      const compare = name === 'logits' ? difference : relativeDifference;
      expect(compare(got, golden.get(name)), name).toBeLessThanOrEqual(TOLERANCE);
    }
  });

  it('has the same logits when the prompt comes in pieces', async () => {
    const tokens = golden.ids('input_ids');
    const id = model.open();
    const rows: number[] = [];
    for (let from = 0; from < tokens.length; from += 9) {
      const piece = tokens.slice(from, from + 9);
      const { logits } = await model.step([{ id, tokens: piece, wanted: every(piece), length: tokens.length }], { outputs: ['logits'] });
      rows.push(...toFloat32(logits!));
    }
    expect(difference(Float32Array.from(rows), golden.get('logits'))).toBeLessThanOrEqual(TOLERANCE);
  });

  it('continues greedily from its cache', async () => {
    const [got] = await continueAll(model, [{ tokens: golden.ids('input_ids') }], 24);
    expect(got!.tokens).toEqual([...golden.ids('generated')]);
    expect(difference(got!.logits, golden.get('generated_logits'))).toBeLessThanOrEqual(TOLERANCE);
  });

  it('runs a padded batch as sequences of their own', async () => {
    const rows = [0, 1].map((entry) => golden.unpadded(entry));
    expect(new Set(rows.map(({ from }) => from)).size).toBe(2);
    const batch = rows.map(({ tokens }) => ({ id: model.open(), tokens, wanted: every(tokens) }));
    const { logits } = await model.step(batch, { outputs: ['logits'] });
    const vocab = logits!.shape[1]!;
    const expected = rows.flatMap(({ from }, entry) => [...toFloat32(golden.get('batch.logits', entry)).subarray(from * vocab)]);
    expect(difference(logits!, Float32Array.from(expected))).toBeLessThanOrEqual(TOLERANCE);
    const prompts = rows.map(({ tokens }) => ({ tokens }));
    const continued = await continueAll(model, prompts, 8);
    expect(continued.map(({ tokens }) => tokens)).toEqual([0, 1].map((entry) => [...golden.ids('batch.generated', entry)]));
  });
});

describe('t5-gated', () => {
  const golden = new Golden<T5Config>('t5-gated');
  const { config, tensors } = golden;
  const start = Uint32Array.of(0);

  it('encodes tokens', async () => {
    await using encoder = await load(runtime, t5Encoder(config, tensors), tensors);
    const outputs = await encoder.step([{ id: encoder.open(), tokens: golden.ids('input_ids') }]);
    expect(Object.keys(outputs)).toHaveLength(config.num_layers + 2);
    for (const [name, got] of Object.entries(outputs)) {
      expect(relativeDifference(got, golden.get(name)), name).toBeLessThanOrEqual(TOLERANCE);
    }
  });

  it('decodes given tokens over encoder rows, both stacks in one program', async () => {
    await using model = await load(runtime, t5(config, tensors), tensors);
    const tokens = golden.ids('decoder_input_ids');
    const inputs = { embedded: golden.get('encoder.hidden.0', 0) };
    const outputs = await model.step([{ id: model.open(), tokens, wanted: every(tokens), inputs }]);
    expect(Object.keys(outputs)).toHaveLength(config.num_layers + config.num_decoder_layers + 4);
    for (const [name, got] of Object.entries(outputs)) {
      const compare = name === 'logits' ? difference : relativeDifference;
      expect(compare(got, golden.get(name)), name).toBeLessThanOrEqual(TOLERANCE);
    }
    const [got] = await continueAll(model, [{ tokens: start, inputs }], 16);
    expect(got!.tokens).toEqual([...golden.ids('generated')]);
    expect(difference(got!.logits, golden.get('generated_logits'))).toBeLessThanOrEqual(TOLERANCE);
  });

  it('runs a padded batch as sequences of their own, a program for each stack', async () => {
    const rows = [0, 1].map((entry) => golden.unpadded(entry).tokens);
    await using encoder = await load(runtime, t5Encoder(config, tensors), tensors);
    const texts = rows.map((tokens) => ({ id: encoder.open(), tokens }));
    const encoded = await encoder.step(texts, { outputs: ['encoder_output'] });
    let end = 0;
    const inputs = rows.map((tokens, entry) => {
      end += tokens.length * config.d_model;
      const values = toFloat32(encoded.encoder_output!).subarray(end - tokens.length * config.d_model, end);
      const padded = toFloat32(golden.get('batch.encoder_output', entry));
      expect(difference(values, padded.subarray(0, values.length))).toBeLessThanOrEqual(TOLERANCE);
      return { encoder_output: float32Tensor([tokens.length, config.d_model], values) };
    });
    await using decoder = await load(runtime, t5Decoder(config, tensors), tensors);
    const beginnings = inputs.map((given) => ({ tokens: start, inputs: given }));
    const continued = await continueAll(decoder, beginnings, 8);
    for (const [entry, { tokens, logits }] of continued.entries()) {
      expect(tokens).toEqual([...golden.ids('batch.generated', entry)]);
      expect(difference(logits, golden.get('batch.generated_logits', entry))).toBeLessThanOrEqual(TOLERANCE);
    }
  });
});

/** The rows of one golden image. Tokens of a program without an embedding say how many rows there are. */
function image(golden: Golden<unknown>, entry: number, patch: number) {
  const pixels = golden.get('pixel_values', entry);
  const patches = patchRows(toFloat32(pixels), pixels.shape[0]!, pixels.shape[1]!, patch);
  return { tokens: new Uint32Array(patches.shape[0]!), inputs: { patches } };
}

it('uses every operation there is', async () => {
  const t5Golden = new Golden<T5Config>('t5-gated');
  const llava = new Golden<LlavaConfig>('llava');
  const programs = [
    ...families.map(({ open }) => open().program),
    t5(t5Golden.config, t5Golden.tensors),
    llavaVision(llava.config, llava.tensors),
    llavaText(llava.config, llava.tensors),
  ];
  const used = new Set(programs.flatMap(({ ops }) => ops.map(({ op }) => op)));
  expect([...used].sort()).toEqual([...(await runtime.backend()).ops].sort());
});

it('clip-vision: embeds two images in one step', async () => {
  const golden = new Golden<ClipVisionConfig>('clip-vision');
  await using model = await load(runtime, clipVision(golden.config, golden.tensors), golden.tensors);
  const wanted = Uint32Array.of(0);
  const images = [0, 1].map((entry) => ({ ...image(golden, entry, golden.config.patch_size), id: model.open(), wanted }));
  const outputs = await model.step(images);
  expect(Object.keys(outputs)).toHaveLength(golden.config.num_hidden_layers + 3);
  for (const [name, got] of Object.entries(outputs)) {
    expect(relativeDifference(got, golden.get(name)), name).toBeLessThanOrEqual(1e-4);
  }
});

it('llava: reads an image in place of its tokens', async () => {
  const golden = new Golden<LlavaConfig>('llava');
  const { config, tensors } = golden;
  await using tower = await load(runtime, llavaVision(config, tensors), tensors);
  const picture = image(golden, 0, config.vision_config.patch_size);
  const wanted = every(picture.tokens).slice(1);
  const { image_features: features } = await tower.step([{ ...picture, id: tower.open(), wanted }], { outputs: ['image_features'] });
  expect(relativeDifference(features!, golden.get('image_features'))).toBeLessThanOrEqual(TOLERANCE);

  await using model = await load(runtime, llavaText(config, tensors), tensors);
  const tokens = golden.ids('input_ids');
  const at = every(tokens).filter((i) => tokens[i] === config.image_token_index);
  const injections = { image: { at, rows: features! } };
  const { logits } = await model.step([{ id: model.open(), tokens, wanted: every(tokens), injections }], { outputs: ['logits'] });
  expect(difference(logits!, golden.get('logits'))).toBeLessThanOrEqual(TOLERANCE);
  const [got] = await continueAll(model, [{ tokens, injections }], 12);
  expect(got!.tokens).toEqual([...golden.ids('generated')]);
  expect(difference(got!.logits, golden.get('generated_logits'))).toBeLessThanOrEqual(TOLERANCE);
});
