// GPT-2: learned positions, layer norms, q, k and v in one linear, an MLP without a gate. Its linears are Conv1D modules, whose weights files have as [in, out].

import type { Entries, JsonObject, ModelAdapter } from '@lowbit/core';
import { readBoolean, readChoice, readInteger, readNumber, readOptionalInteger } from '../config.ts';
import { decoderAdapter } from '../decoder/adapter.ts';
import type { DecoderLayer, DecoderSpec, LinearSpec } from '../decoder/spec.ts';
import { ACTIVATIONS, COUNT, dividedHeads, EPS, layerNorm, linear, POSITIONS, readHead, requireOff, SIZE, VOCAB } from './common.ts';

const conv1d = (path: string, out: number, inp: number): LinearSpec => ({ ...linear(path, out, inp, { bias: true }), transposed: true });

/** What config.json of a GPT-2 says, as a decoder. Throws ERR_BAD_CHECKPOINT naming the key of an unusable value, ERR_UNSUPPORTED_ARCH for cross attention. */
function gpt2Spec(config: JsonObject, entries: Entries): DecoderSpec {
  const hidden = readInteger(config, 'n_embd', SIZE, 768);
  const layers = readInteger(config, 'n_layer', COUNT, 12);
  const heads = readInteger(config, 'n_head', COUNT, 12);
  const vocab = readInteger(config, 'vocab_size', VOCAB, 50257);
  const positions = readInteger(config, 'n_positions', POSITIONS, 1024);
  const width = readOptionalInteger(config, 'n_inner', SIZE) ?? 4 * hidden;
  const eps = readNumber(config, 'layer_norm_epsilon', EPS, 1e-5);
  const activation = readChoice(config, 'activation_function', ACTIVATIONS, 'gelu_new');
  const headDim = dividedHeads(hidden, heads, ['n_head', 'n_embd']);
  const scaled = readBoolean(config, 'scale_attn_weights', true);
  const byLayer = readBoolean(config, 'scale_attn_by_inverse_layer_idx', false);
  requireOff(config, 'add_cross_attention');

  // Published files have the names of the model without its head, saved ones those of the model with it.
  const root = entries.has('transformer.wte.weight') ? 'transformer.' : '';
  const layer = (index: number): DecoderLayer => {
    const at = `${root}h.${index}`;
    return {
      residual: 'sequential',
      attention: {
        input: layerNorm(`${at}.ln_1`, hidden, eps),
        module: {
          qkv: { kind: 'fused', qkv: conv1d(`${at}.attn.c_attn`, 3 * hidden, hidden), order: 'blocks' },
          o: conv1d(`${at}.attn.c_proj`, hidden, hidden),
          heads,
          kvHeads: heads,
          headDim,
          scale: (scaled ? headDim ** -0.5 : 1) / (byLayer ? index + 1 : 1),
          position: { kind: 'none' },
        },
      },
      mlp: {
        input: layerNorm(`${at}.ln_2`, hidden, eps),
        module: { kind: 'plain', up: conv1d(`${at}.mlp.c_fc`, width, hidden), down: conv1d(`${at}.mlp.c_proj`, hidden, width), activation },
      },
    };
  };
  return {
    vocab,
    hidden,
    contextLength: positions,
    embedding: { path: `${root}wte`, positions: { path: `${root}wpe`, rows: positions, offset: 0 } },
    ropes: [],
    layers: Array.from({ length: layers }, (_, index) => layer(index)),
    norm: layerNorm(`${root}ln_f`, hidden, eps),
    output: readHead(config, entries, linear('lm_head', vocab, hidden), { tied: true }),
    unread: /\.attn\.(?:masked_)?bias$/,
  };
}

/** GPT-2: `model_type` "gpt2". */
export const gpt2: ModelAdapter = decoderAdapter({ modelTypes: ['gpt2'], spec: gpt2Spec });
