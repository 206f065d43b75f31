// Models as GGUF files through everything: numbers and logits of the golden models, tokenizers, and the way into a quantized folder.

import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createRuntime, type HostTensor, type JsonObject, type Runtime, referenceBackend, toFloat32 } from '@lowbit/core';
import { hqq } from '@lowbit/hqq';
import { openCheckpoint, quantizeCheckpoint } from '@lowbit/hub';
import { defaultAdapters, loadModel, loadTokenizer } from '@lowbit/models';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import * as golden from '../fixtures/golden.ts';
import type { Value } from '../packages/hub/src/gguf/testing.ts';
import { goldenContents } from '../packages/models/src/testing/memory-checkpoint.ts';
import { ggufOf } from './families/gguf.ts';
import { difference, TOLERANCE } from './families/run.ts';

let dir = '';
let runtime: Runtime;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'lowbit-gguf-'));
  runtime = await createRuntime({ backends: [referenceBackend()] });
});
afterAll(async () => {
  await runtime[Symbol.asyncDispose]();
  await rm(dir, { recursive: true, force: true });
});

async function written(name: string, bytes: Uint8Array): Promise<string> {
  const path = join(dir, `${name}.gguf`);
  await writeFile(path, bytes);
  return path;
}

/** What GGUF has no place for: llama.cpp knows such numbers of published models by heart, and these models have others. */
const UNSAID: Readonly<Record<string, readonly string[]>> = {
  gemma2: ['query_pre_attn_scalar'],
  gemma3: ['query_pre_attn_scalar'],
  'mistral-sliding': ['sliding_window'],
  'qwen2-sliding': ['use_sliding_window', 'sliding_window', 'max_window_layers'],
  'qwen2-moe': ['norm_topk_prob'],
  smollm3: ['no_rope_layer_interval'],
};

const FOLDERS = [
  ...[
    'llama-gqa',
    'llama-bias',
    'llama-headdim',
    'llama-tied',
    'llama-sharded',
    'llama-rope-linear',
    'llama-rope-llama3',
    'llama-rope-yarn',
  ],
  ...[
    'mistral-sliding',
    'mixtral-published',
    'qwen2-sliding',
    'qwen2-moe',
    'qwen3',
    'qwen3-moe',
    'gemma',
    'gemma2',
    'gemma3',
    'phi3-longrope',
  ],
  ...['granite', 'smollm3'],
];

describe('golden models', () => {
  it.each(FOLDERS)('%s', async (name) => {
    const { config, tensors } = goldenContents(golden, name);
    await using checkpoint = await openCheckpoint(await written(name, ggufOf(config, tensors)));
    expect([...checkpoint.source.entries.keys()].sort()).toEqual([...tensors.keys()].sort());
    for (const [tensor, want] of tensors) {
      const got = await checkpoint.tensor(tensor);
      expect(got.shape, tensor).toEqual(want.shape);
      expect(difference(got, want), tensor).toBeLessThanOrEqual(/^gemma/.test(name) && /norm/.test(tensor) ? 1.2e-7 : 0);
    }
    const unsaid = Object.fromEntries((UNSAID[name] ?? []).map((key) => [key, config[key]!]));
    // mistral is llama in GGUF, and nothing says that it is not.
    const own: JsonObject = name === 'mistral-sliding' ? { model_type: 'mistral' } : {};
    const expected = golden.goldenTensors(`models/${name}/expected.safetensors`);
    const ids = (tensor: HostTensor): number[] => Array.from(toFloat32(tensor));
    await using model = await loadModel({ ...checkpoint, config: { ...checkpoint.config, ...own, ...unsaid } }, { runtime });
    expect(difference(await model.logits(ids(expected.get('input_ids')!)), expected.get('logits')!)).toBeLessThanOrEqual(TOLERANCE);
  });
});

interface Strings {
  readonly strings: { text: string; ids: number[]; decoded: string; decoded_skip: string }[];
}

/** What a converter writes of a tokenizer.json and its config. */
function tokenizerMetadata(name: string): Record<string, Value> {
  interface Json {
    added_tokens: { id: number; content: string; special: boolean }[];
    model: { vocab: Record<string, number>; merges: [string, string][] };
  }
  const { added_tokens: added, model } = golden.goldenJson<Json>(`models/tokenizer-${name}/tokenizer.json`);
  const config = golden.goldenJson<Record<string, string>>(`models/tokenizer-${name}/tokenizer_config.json`);
  const tokens: string[] = [];
  for (const [token, id] of Object.entries(model.vocab)) tokens[id] = token;
  for (const { id, content } of added) tokens[id] = content;
  const pieces = name !== 'llama3';
  const kinds = tokens.map((token, id) => {
    if (token === '<unk>' && pieces) return 2;
    const one = added.find((each) => each.id === id);
    if (one) return one.special ? 3 : 4;
    return /^<0x[0-9A-F]{2}>$/.test(token) ? 6 : 1;
  });
  const rank = new Map<string, number>();
  for (const [i, [a, b]] of model.merges.entries()) if (!rank.has(a + b)) rank.set(a + b, i);
  const id = (token: string | undefined) => ({ u32: tokens.indexOf(token!) });
  return {
    'tokenizer.ggml.model': { text: pieces ? 'llama' : 'gpt2' },
    ...(pieces
      ? {
          'tokenizer.ggml.scores': { f32s: tokens.map((token) => -(rank.get(token) ?? 10_000)) },
          'tokenizer.ggml.unknown_token_id': id('<unk>'),
        }
      : { 'tokenizer.ggml.pre': { text: 'llama-bpe' }, 'tokenizer.ggml.merges': { texts: model.merges.map((pair) => pair.join(' ')) } }),
    'tokenizer.ggml.tokens': { texts: tokens },
    'tokenizer.ggml.token_type': { i32s: kinds },
    'tokenizer.ggml.bos_token_id': id(config.bos_token),
    'tokenizer.ggml.eos_token_id': id(config.eos_token),
    'tokenizer.ggml.add_bos_token': { flag: true },
    ...(name === 'gemma' ? { 'tokenizer.ggml.add_space_prefix': { flag: false } } : {}),
    'tokenizer.chat_template': { text: config.chat_template! },
  };
}

describe('tokenizers', () => {
  it.each(['llama3', 'mistral', 'gemma'])('%s: the ids and texts of its tokenizer.json', async (name) => {
    const { config, tensors } = goldenContents(golden, 'llama-gqa');
    await using checkpoint = await openCheckpoint(await written(`tokenizer-${name}`, ggufOf(config, tensors, tokenizerMetadata(name))));
    const tokenizer = await loadTokenizer(checkpoint);
    const { strings } = golden.goldenJson<Strings>(`models/tokenizer-${name}/expected.json`);
    expect(strings.length).toBeGreaterThan(10);
    for (const { text, ids, decoded, decoded_skip } of strings) {
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(ids);
      expect(tokenizer.decode(ids, { skipSpecialTokens: false })).toBe(decoded);
      expect(tokenizer.decode(ids)).toBe(decoded_skip);
    }
    expect(tokenizer.chatTemplates).toEqual(['default']);
    expect(tokenizer.eosId).toBeTypeOf('number');
  });
});

it('quantizes a file into a folder that runs by itself, tokenizer and all', async () => {
  const { config, tensors } = goldenContents(golden, 'llama-gqa');
  const path = await written('to-quantize', ggufOf(config, tensors, tokenizerMetadata('llama3')));
  await using source = await openCheckpoint(path);
  const out = join(dir, 'quantized');
  const quantizer = hqq({ bits: 4, groupSize: 16 });
  const report = await quantizeCheckpoint(source, { out, quantizer, adapters: defaultAdapters });
  expect(report.linears).toHaveLength(14);
  await using checkpoint = await openCheckpoint(out);
  expect(checkpoint.files).toEqual(['generation_config.json', 'tokenizer.json', 'tokenizer_config.json']);
  await using model = await loadModel(checkpoint, { runtime });
  // The same weights, from safetensors.
  await using original = await openCheckpoint(golden.goldenPath('models/llama-gqa'));
  const other = join(dir, 'from-safetensors');
  await quantizeCheckpoint(original, { out: other, quantizer, adapters: defaultAdapters });
  await using expected = await loadModel(await openCheckpoint(other), { runtime });
  const prompt = [1, 5, 9, 200, 17];
  expect(difference(await model.logits(prompt), await expected.logits(prompt))).toBe(0);
});
