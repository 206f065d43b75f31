// GPT-NeoX and Pythia: attention and MLP side by side on the layer's input, a part of each head rotated, q, k and v of one head after another.

import type { Entries, JsonObject, ModelAdapter } from '@lowbit/core';
import { given, readBoolean, readChoice, readInteger, readNumber } from '../config.ts';
import { decoderAdapter } from '../decoder/adapter.ts';
import { ropeOf, ropeParameters, rotatedDim } from '../decoder/rope.ts';
import type { DecoderLayer, DecoderSpec } from '../decoder/spec.ts';
import { ACTIVATIONS, COUNT, dividedHeads, EPS, layerNorm, linear, POSITIONS, readHead, SIZE, VOCAB } from './common.ts';

/** What config.json of a GPT-NeoX says, as a decoder. Throws as `llamaSpec`. */
function gptNeoxSpec(config: JsonObject, entries: Entries): DecoderSpec {
  const hidden = readInteger(config, 'hidden_size', SIZE);
  const width = readInteger(config, 'intermediate_size', SIZE);
  const layers = readInteger(config, 'num_hidden_layers', COUNT);
  const heads = readInteger(config, 'num_attention_heads', COUNT);
  const vocab = readInteger(config, 'vocab_size', VOCAB);
  const positions = readInteger(config, 'max_position_embeddings', POSITIONS, 2048);
  const eps = readNumber(config, 'layer_norm_eps', EPS, 1e-5);
  const activation = readChoice(config, 'hidden_act', ACTIVATIONS, 'gelu');
  const parallel = readBoolean(config, 'use_parallel_residual', true);
  const bias = readBoolean(config, 'attention_bias', true);
  const headDim = dividedHeads(hidden, heads);
  // Published configs have names of their own for what others call rope_theta and partial_rotary_factor.
  const named = { rope_theta: given(config, 'rotary_emb_base') ?? 10_000, partial_rotary_factor: given(config, 'rotary_pct') ?? 0.25 };
  const parameters = ropeParameters({ ...named, ...config }, 10_000);
  const rotated = rotatedDim(parameters, { ...named, ...config }, headDim);
  const rope = ropeOf(parameters, { dim: rotated, positions });

  // Published files say embed_out; transformers 5 has another name for it, which it can save.
  const head = entries.has('lm_head.weight') ? 'lm_head' : 'embed_out';
  const layer = (index: number): DecoderLayer => {
    const at = `gpt_neox.layers.${index}`;
    return {
      residual: parallel ? 'parallel' : 'sequential',
      attention: {
        input: layerNorm(`${at}.input_layernorm`, hidden, eps),
        module: {
          qkv: { kind: 'fused', qkv: linear(`${at}.attention.query_key_value`, 3 * hidden, hidden, { bias }), order: 'heads' },
          o: linear(`${at}.attention.dense`, hidden, hidden, { bias }),
          heads,
          kvHeads: heads,
          headDim,
          scale: headDim ** -0.5,
          position: { kind: 'rope', rope: 0, rotated },
        },
      },
      mlp: {
        input: layerNorm(`${at}.post_attention_layernorm`, hidden, eps),
        module: {
          kind: 'plain',
          up: linear(`${at}.mlp.dense_h_to_4h`, width, hidden, { bias: true }),
          down: linear(`${at}.mlp.dense_4h_to_h`, hidden, width, { bias: true }),
          activation,
        },
      },
    };
  };
  return {
    vocab,
    hidden,
    contextLength: rope.kind === 'dynamic' ? Math.floor(positions * rope.factor) : positions,
    embedding: { path: 'gpt_neox.embed_in' },
    ropes: [rope],
    layers: Array.from({ length: layers }, (_, index) => layer(index)),
    norm: layerNorm('gpt_neox.final_layer_norm', hidden, eps),
    output: readHead(config, entries, linear(head, vocab, hidden), { tied: false }),
    unread: /\.attention\.(?:(?:masked_)?bias|rotary_emb\.inv_freq)$/,
  };
}

/** GPT-NeoX and Pythia: `model_type` "gpt_neox". */
export const gptNeox: ModelAdapter = decoderAdapter({ modelTypes: ['gpt_neox'], spec: gptNeoxSpec });
