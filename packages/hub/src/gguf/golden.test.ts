// Against another writer and another reader: files and numbers of gguf-py, the Python package of llama.cpp (fixtures/golden/gguf/make).

import { createHash } from 'node:crypto';
import { toFloat32 } from '@lowbit/core';
import { describe, expect, test } from 'vitest';
import { goldenJson, goldenPath } from '../../../../fixtures/golden.ts';
import { openCheckpoint } from '../checkpoint.node.ts';
import { GGML_TYPES } from './types.ts';

interface Blocks {
  readonly block: number;
  readonly bytes: number;
  readonly raw: string;
  readonly values: string;
}

const blocks = goldenJson<Record<string, Blocks>>('gguf/blocks.json');
const expected = goldenJson<Record<string, { type: string; shape: number[]; sha256: string }>>('gguf/expected.json');
const byName = new Map([...GGML_TYPES.values()].map((type) => [type.name, type]));

describe('blocks', () => {
  test('every type that is decoded is tested', () => {
    expect([...byName.values()].filter(({ decode }) => decode).map(({ name }) => name)).toEqual(Object.keys(blocks).sort(byId));
  });

  test.each(Object.entries(blocks))('%s, bit for bit', (name, { block, bytes, raw, values }) => {
    const type = byName.get(name)!;
    expect([type.block, type.bytes, type.dtype]).toEqual([block, bytes, 'f32']);
    const stored = new Uint8Array(Buffer.from(raw, 'base64'));
    const out = new Float32Array((stored.byteLength / bytes) * block);
    type.decode!(stored, out);
    expect(Buffer.from(out.buffer).toString('base64')).toBe(values);
  });
});

function byId(a: string, b: string): number {
  const order = [...byName.keys()];
  return order.indexOf(a) - order.indexOf(b);
}

describe('a file of gguf.GGUFWriter', () => {
  test('tensors by the names of Hugging Face, the order of rotation undone, whole and in ranges', async () => {
    await using checkpoint = await openCheckpoint(goldenPath('gguf/tiny.gguf'));
    const { source } = checkpoint;
    expect([...source.entries.keys()].sort()).toEqual(Object.keys(expected).sort());
    for (const [name, { type, shape, sha256 }] of Object.entries(expected)) {
      const tensor = await source.read(name);
      expect(tensor.shape).toEqual(shape);
      expect(tensor.dtype).toBe({ F16: 'f16', BF16: 'bf16' }[type] ?? 'f32');
      const values = toFloat32(tensor);
      expect(
        createHash('sha256')
          .update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
          .digest('hex'),
        name,
      ).toBe(sha256);
      const width = tensor.data.byteLength / values.length;
      for (const [from, to] of [
        [0, 1],
        [33, 34],
        [17, 49],
        [3, 3],
        [values.length - 5, values.length],
        [values.length >> 1, values.length - 1],
      ] as const) {
        if (to > values.length) continue;
        const part = await source.read(name, { range: [from, to] });
        expect(Buffer.from(part.data).equals(tensor.data.subarray(from * width, to * width)), `${name} ${from} ${to}`).toBe(true);
      }
    }
  });

  test('config, tokenizer and template as Hugging Face has them', async () => {
    await using checkpoint = await openCheckpoint(goldenPath('gguf/tiny.gguf'));
    expect(checkpoint.config).toEqual({
      architectures: ['LlamaForCausalLM'],
      model_type: 'llama',
      attention_bias: false,
      mlp_bias: false,
      bos_token_id: 0,
      eos_token_id: 1,
      head_dim: 16,
      hidden_act: 'silu',
      hidden_size: 64,
      intermediate_size: 96,
      max_position_embeddings: 256,
      num_attention_heads: 4,
      num_hidden_layers: 2,
      num_key_value_heads: 2,
      rms_norm_eps: 1e-5,
      rope_scaling: null,
      rope_theta: 500_000,
      tie_word_embeddings: false,
      torch_dtype: 'float32',
      vocab_size: 72,
    });
    expect(checkpoint.files).toEqual(['generation_config.json', 'tokenizer.json', 'tokenizer_config.json']);
    const json = async (name: string) => JSON.parse(new TextDecoder().decode(await checkpoint.file(name)));
    expect(await json('generation_config.json')).toEqual({ bos_token_id: 0, eos_token_id: 1 });
    const tokenizer = await json('tokenizer.json');
    expect(tokenizer.model.merges).toEqual([
      ['Ġ', 'a'],
      ['Ġ', 'b'],
      ['a', 'b'],
      ['ab', 'c'],
    ]);
    expect(Object.keys(tokenizer.model.vocab)).toHaveLength(72);
    expect(tokenizer.added_tokens.map(({ id, special }: { id: number; special: boolean }) => [id, special])).toEqual([
      [0, true],
      [1, true],
      [7, false],
    ]);
    expect(await json('tokenizer_config.json')).toMatchObject({
      bos_token: '<|bos|>',
      eos_token: '<|eos|>',
      chat_template: expect.stringContaining('messages'),
    });
  });
});
