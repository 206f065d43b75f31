// Llama 1 to 3.3 and the models published under its model_type (SmolLM2, TinyLlama, Yi, ...): RMS norm, grouped-query attention with rotary
// positions, gated MLP. After transformers' modeling_llama. Most other families are this one, but for what their adapters say.

import type { Entries, JsonObject, ModelAdapter, Rope } from '@lowbit/core';
import { readBoolean, readChoice, readInteger, readNumber } from '../config.ts';
import { decoderAdapter } from '../decoder/adapter.ts';
import { type RopeReaders, ropeOf, ropeParameters, rotatedDim } from '../decoder/rope.ts';
import type { DecoderLayer, DecoderSpec, NormSpec } from '../decoder/spec.ts';
import { ACTIVATIONS, COUNT, EPS, linear, POSITIONS, readHead, readHeads, rmsNorm, SIZE, VOCAB } from './common.ts';

/** In what a family differs from Llama before its layers are looked at. */
export interface LlamaTraits {
  /** Values of absent keys; Llama's: 2048 positions, eps 1e-6, theta 1e4, silu, an own head, head_dim from hidden_size. */
  readonly positions?: number;
  readonly eps?: number;
  readonly theta?: number;
  readonly activation?: string;
  readonly tied?: boolean;
  readonly headDim?: number;
  /** The key of the activation; default hidden_act. */
  readonly activationKey?: string;
  /** Which linears have biases; default what attention_bias (q, k, v and o) and mlp_bias say. */
  readonly biases?: { readonly qkv?: boolean; readonly o?: boolean; readonly mlp?: boolean };
  /** Norm weights are 1 + w. */
  readonly weightOffset?: 1;
  /** Further rope types. */
  readonly ropes?: RopeReaders;
}

/** What config.json of a Llama says, as a decoder. Throws ERR_BAD_CHECKPOINT naming the key of an unusable value. */
export function llamaSpec(config: JsonObject, entries: Entries, traits: LlamaTraits = {}): DecoderSpec {
  const hidden = readInteger(config, 'hidden_size', SIZE);
  const width = readInteger(config, 'intermediate_size', SIZE);
  const layers = readInteger(config, 'num_hidden_layers', COUNT);
  const vocab = readInteger(config, 'vocab_size', VOCAB);
  const positions = readInteger(config, 'max_position_embeddings', POSITIONS, traits.positions ?? 2048);
  const eps = readNumber(config, 'rms_norm_eps', EPS, traits.eps ?? 1e-6);
  const activation = readChoice(config, traits.activationKey ?? 'hidden_act', ACTIVATIONS, traits.activation ?? 'silu');
  const attentionBias = readBoolean(config, 'attention_bias', false);
  const { qkv = attentionBias, o = attentionBias, mlp = readBoolean(config, 'mlp_bias', false) } = traits.biases ?? {};
  const { heads, kvHeads, headDim } = readHeads(config, hidden, traits.headDim);
  const parameters = ropeParameters(config, traits.theta ?? 10_000);
  const rotated = rotatedDim(parameters, config, headDim);
  const rope = ropeOf(parameters, { dim: rotated, positions }, traits.ropes);

  const norm = (path: string): NormSpec => ({ ...rmsNorm(path, hidden, eps), ...(traits.weightOffset && { weightOffset: 1 }) });
  const layer = (index: number): DecoderLayer => {
    const at = `model.layers.${index}`;
    return {
      residual: 'sequential',
      attention: {
        input: norm(`${at}.input_layernorm`),
        module: {
          qkv: {
            kind: 'separate',
            q: linear(`${at}.self_attn.q_proj`, heads * headDim, hidden, { bias: qkv }),
            k: linear(`${at}.self_attn.k_proj`, kvHeads * headDim, hidden, { bias: qkv }),
            v: linear(`${at}.self_attn.v_proj`, kvHeads * headDim, hidden, { bias: qkv }),
          },
          o: linear(`${at}.self_attn.o_proj`, hidden, heads * headDim, { bias: o }),
          heads,
          kvHeads,
          headDim,
          scale: headDim ** -0.5,
          position: { kind: 'rope', rope: 0, rotated },
        },
      },
      mlp: {
        input: norm(`${at}.post_attention_layernorm`),
        module: {
          kind: 'gated',
          gate: linear(`${at}.mlp.gate_proj`, width, hidden, { bias: mlp }),
          up: linear(`${at}.mlp.up_proj`, width, hidden, { bias: mlp }),
          down: linear(`${at}.mlp.down_proj`, hidden, width, { bias: mlp }),
          activation,
        },
      },
    };
  };
  return {
    vocab,
    hidden,
    contextLength: reach(rope, positions),
    embedding: { path: 'model.embed_tokens' },
    ropes: [rope],
    layers: Array.from({ length: layers }, (_, index) => layer(index)),
    norm: norm('model.norm'),
    output: readHead(config, entries, linear('lm_head', vocab, hidden), { tied: traits.tied ?? false }),
    unread: /\.rotary_emb\.inv_freq$/,
  };
}

/** Dynamic NTK is made to reach `factor` times the trained length. */
function reach(rope: Rope, positions: number): number {
  return rope.kind === 'dynamic' ? Math.floor(positions * rope.factor) : positions;
}

/** Llama: `model_type` "llama". */
export const llama: ModelAdapter = decoderAdapter({ modelTypes: ['llama'], spec: (config, entries) => llamaSpec(config, entries) });
