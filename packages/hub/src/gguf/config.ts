// config.json and generation_config.json of a model that is a GGUF file.

import type { Json, JsonObject } from '@lowbit/core';
import { type Architecture, evenly } from './architectures.ts';
import { badGguf } from './bad.ts';
import type { GgufHeader } from './header.ts';
import type { GgufMetadata } from './metadata.ts';
import { type RopeFactors, ropeScaling } from './rope.ts';

/** What transformers would have in config.json. Throws ERR_BAD_CHECKPOINT for missing numbers, ERR_UNSUPPORTED_ARCH for unknown rotary scaling. */
export function ggufConfig(header: GgufHeader, meta: GgufMetadata, architecture: Architecture, factors: RopeFactors): JsonObject {
  const { tensors } = header;
  const vocabulary = tensors.get('token_embd.weight')?.shape[0];
  if (vocabulary === undefined) throw badGguf(meta.file, 'it has no token_embd.weight');
  const { heads, kvHeads, headDim } = architecture;
  const theta = meta.number('rope.freq_base') ?? 10_000;
  return {
    architectures: [architecture.className],
    model_type: architecture.modelType,
    attention_bias: tensors.has('blk.0.attn_output.bias'),
    mlp_bias: tensors.has('blk.0.ffn_down.bias'),
    ...tokenIds(meta),
    hidden_size: meta.count('embedding_length'),
    intermediate_size: evenly(meta, 'feed_forward_length'),
    max_position_embeddings: meta.count('context_length'),
    num_attention_heads: heads,
    num_hidden_layers: meta.count('block_count'),
    num_key_value_heads: kvHeads,
    rms_norm_eps: meta.number('attention.layer_norm_rms_epsilon') ?? 1e-6,
    rope_scaling: ropeScaling(meta, { theta, headDim, positions: meta.count('context_length') }, factors),
    rope_theta: theta,
    tie_word_embeddings: !tensors.has('output.weight'),
    torch_dtype: torchDtype(header),
    vocab_size: vocabulary,
    ...architecture.config,
    ...('mlp_only_layers' in architecture.config ? { mlp_only_layers: denseLayers(header, meta.count('block_count')) } : {}),
  };
}

/** Layers of a mixture that have no experts. */
function denseLayers({ tensors }: GgufHeader, layers: number): number[] {
  const dense: number[] = [];
  for (let i = 0; i < layers && dense.length < tensors.size; i++) if (!tensors.has(`blk.${i}.ffn_gate_inp.weight`)) dense.push(i);
  return dense;
}

/** generation_config.json: where texts begin and end. */
export function ggufGeneration(meta: GgufMetadata): JsonObject {
  const { bos_token_id, eos_token_id } = tokenIds(meta);
  const ends = [eos_token_id, meta.whole('.tokenizer.ggml.eot_token_id'), meta.whole('.tokenizer.ggml.eom_token_id')];
  const eos = [...new Set(ends.filter((id) => id !== undefined && id !== null))] as number[];
  return {
    ...(bos_token_id === null ? {} : { bos_token_id: bos_token_id! }),
    ...(eos.length === 0 ? {} : { eos_token_id: eos.length === 1 ? eos[0]! : eos }),
  };
}

function tokenIds(meta: GgufMetadata): Record<'bos_token_id' | 'eos_token_id', Json> & { pad_token_id?: Json } {
  const pad = meta.whole('.tokenizer.ggml.padding_token_id');
  return {
    bos_token_id: meta.whole('.tokenizer.ggml.bos_token_id') ?? null,
    eos_token_id: meta.whole('.tokenizer.ggml.eos_token_id') ?? null,
    ...(pad === undefined ? {} : { pad_token_id: pad }),
  };
}

/** That of the first layer's largest numbers; float32 where they are packed, which holds all of them exactly. */
function torchDtype({ tensors }: GgufHeader): string {
  const weight = tensors.get('blk.0.attn_output.weight') ?? tensors.get('token_embd.weight');
  return { F16: 'float16', BF16: 'bfloat16' }[weight?.type.name ?? ''] ?? 'float32';
}
