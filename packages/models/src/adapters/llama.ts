// Llama 1 to 3.3 and the models published under its model_type (SmolLM2, TinyLlama, Yi, ...): RMS norm, grouped-query attention with rotary
// positions, gated MLP. After transformers' modeling_llama.

import type { Activation, Entries, JsonObject, ModelAdapter } from '@lowbit/core';
import { badConfig, given, readBoolean, readChoice, readInteger, readNumber } from '../config.ts';
import { decoderAdapter } from '../decoder/adapter.ts';
import { type RopeContext, ropeOf, ropeParameters } from '../decoder/rope.ts';
import type { DecoderLayer, DecoderSpec, LinearSpec, NormSpec } from '../decoder/spec.ts';

/** Names of config.json `hidden_act`. */
const ACTIVATIONS: Readonly<Record<string, Activation>> = {
  silu: 'silu',
  swish: 'silu',
  gelu: 'gelu',
  gelu_new: 'gelu_tanh',
  gelu_pytorch_tanh: 'gelu_tanh',
  quick_gelu: 'quick_gelu',
  relu: 'relu',
  relu2: 'relu2',
};

// Far above every published model, far below what could exhaust memory before the tensors are compared.
const SIZE = { min: 1, max: 2 ** 20 };
const COUNT = { min: 1, max: 4096 };
const VOCAB = { min: 1, max: 2 ** 24 };
const POSITIONS = { min: 1, max: 2 ** 27 };

/** What config.json of a Llama says, as a decoder. Throws ERR_BAD_CHECKPOINT naming the key of an unusable value. */
export function llamaSpec(config: JsonObject, entries: Entries): DecoderSpec {
  const hidden = readInteger(config, 'hidden_size', SIZE);
  const width = readInteger(config, 'intermediate_size', SIZE);
  const layers = readInteger(config, 'num_hidden_layers', COUNT);
  const vocab = readInteger(config, 'vocab_size', VOCAB);
  const positions = readInteger(config, 'max_position_embeddings', POSITIONS, 2048);
  const eps = readNumber(config, 'rms_norm_eps', { min: 0, max: 1 }, 1e-6);
  const activation = readChoice(config, 'hidden_act', ACTIVATIONS, 'silu');
  const attentionBias = readBoolean(config, 'attention_bias', false);
  const mlpBias = readBoolean(config, 'mlp_bias', false);

  const heads = readInteger(config, 'num_attention_heads', COUNT);
  const kvHeads = readInteger(config, 'num_key_value_heads', COUNT, heads);
  if (heads % kvHeads !== 0) throw badConfig('num_key_value_heads', kvHeads, `a divisor of num_attention_heads (${heads})`);
  const explicit = given(config, 'head_dim') !== undefined;
  if (!explicit && hidden % heads !== 0)
    throw badConfig('num_attention_heads', heads, `a divisor of hidden_size (${hidden}), as there is no head_dim`);
  const headDim = readInteger(config, 'head_dim', COUNT, hidden / heads);
  const parameters = ropeParameters(config, 10_000);
  const rotated = rotatedDim(parameters, config, headDim);
  const context: RopeContext = { dim: rotated, positions };
  const rope = ropeOf(parameters, context);

  const linear = (path: string, out: number, inp: number, bias: boolean): LinearSpec => ({ path, shape: [out, inp], bias });
  const norm = (path: string): NormSpec => ({ path, kind: 'rms', eps });
  const layer = (index: number): DecoderLayer => {
    const at = `model.layers.${index}`;
    return {
      attentionNorm: norm(`${at}.input_layernorm`),
      attention: {
        q: linear(`${at}.self_attn.q_proj`, heads * headDim, hidden, attentionBias),
        k: linear(`${at}.self_attn.k_proj`, kvHeads * headDim, hidden, attentionBias),
        v: linear(`${at}.self_attn.v_proj`, kvHeads * headDim, hidden, attentionBias),
        o: linear(`${at}.self_attn.o_proj`, hidden, heads * headDim, attentionBias),
        heads,
        kvHeads,
        headDim,
        scale: headDim ** -0.5,
        rope: 0,
        rotated,
      },
      mlpNorm: norm(`${at}.post_attention_layernorm`),
      mlp: {
        kind: 'gated',
        gate: linear(`${at}.mlp.gate_proj`, width, hidden, mlpBias),
        up: linear(`${at}.mlp.up_proj`, width, hidden, mlpBias),
        down: linear(`${at}.mlp.down_proj`, hidden, width, mlpBias),
        activation,
      },
    };
  };
  // A file that has a head of its own keeps it, whatever the config says: later versions of the library write such checkpoints.
  const tied = readBoolean(config, 'tie_word_embeddings', false) && !entries.has('lm_head.weight');
  return {
    vocab,
    hidden,
    // Dynamic NTK is made to reach `factor` times the trained length.
    contextLength: rope.kind === 'dynamic' ? Math.floor(positions * rope.factor) : positions,
    embedding: { path: 'model.embed_tokens' },
    ropes: [rope],
    layers: Array.from({ length: layers }, (_, index) => layer(index)),
    norm: norm('model.norm'),
    ...(tied ? {} : { head: linear('lm_head', vocab, hidden, false) }),
  };
}

function rotatedDim(parameters: JsonObject, config: JsonObject, headDim: number): number {
  const source = given(parameters, 'partial_rotary_factor') === undefined ? config : parameters;
  const dim = Math.floor(headDim * readNumber(source, 'partial_rotary_factor', { min: 0, max: 1 }, 1));
  if (dim < 2 || dim % 2 !== 0) throw badConfig('head_dim', headDim, 'a head of which an even, positive number of elements is rotated');
  return dim;
}

/** Llama: `model_type` "llama". */
export const llama: ModelAdapter = decoderAdapter({ modelTypes: ['llama'], spec: llamaSpec });
