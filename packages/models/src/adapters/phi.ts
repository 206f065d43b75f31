// Phi-1, Phi-1.5 and Phi-2: attention and MLP side by side on one norm of the layer's input, a part of each head rotated, biases everywhere.

import type { Entries, JsonObject, ModelAdapter } from '@lowbit/core';
import { readBoolean, readChoice, readInteger, readNumber } from '../config.ts';
import { decoderAdapter } from '../decoder/adapter.ts';
import { ropeOf, ropeParameters, rotatedDim } from '../decoder/rope.ts';
import type { DecoderLayer, DecoderSpec } from '../decoder/spec.ts';
import { ACTIVATIONS, COUNT, EPS, layerNorm, linear, POSITIONS, readHead, readHeads, SIZE, VOCAB } from './common.ts';

/** What config.json of a Phi says, as a decoder. Throws as `llamaSpec`. */
function phiSpec(config: JsonObject, entries: Entries): DecoderSpec {
  const hidden = readInteger(config, 'hidden_size', SIZE);
  const width = readInteger(config, 'intermediate_size', SIZE);
  const layers = readInteger(config, 'num_hidden_layers', COUNT);
  const vocab = readInteger(config, 'vocab_size', VOCAB);
  const positions = readInteger(config, 'max_position_embeddings', POSITIONS, 2048);
  const eps = readNumber(config, 'layer_norm_eps', EPS, 1e-5);
  const activation = readChoice(config, 'hidden_act', ACTIVATIONS, 'gelu_new');
  const { heads, kvHeads, headDim } = readHeads(config, hidden);
  const normed = readBoolean(config, 'qk_layernorm', false);
  const parameters = ropeParameters(config, 10_000);
  const rotated = rotatedDim(parameters, config, headDim, 0.5);
  const rope = ropeOf(parameters, { dim: rotated, positions });

  const layer = (index: number): DecoderLayer => {
    const at = `model.layers.${index}`;
    const input = layerNorm(`${at}.input_layernorm`, hidden, eps);
    const attend = (name: string, out: number) => linear(`${at}.self_attn.${name}`, out, hidden, { bias: true });
    return {
      residual: 'parallel',
      attention: {
        input,
        module: {
          qkv: {
            kind: 'separate',
            q: attend('q_proj', heads * headDim),
            k: attend('k_proj', kvHeads * headDim),
            v: attend('v_proj', kvHeads * headDim),
          },
          o: linear(`${at}.self_attn.dense`, hidden, heads * headDim, { bias: true }),
          heads,
          kvHeads,
          headDim,
          scale: headDim ** -0.5,
          position: { kind: 'rope', rope: 0, rotated },
          ...(normed && {
            qNorm: layerNorm(`${at}.self_attn.q_layernorm`, headDim, eps),
            kNorm: layerNorm(`${at}.self_attn.k_layernorm`, headDim, eps),
          }),
        },
      },
      mlp: {
        input,
        module: {
          kind: 'plain',
          up: linear(`${at}.mlp.fc1`, width, hidden, { bias: true }),
          down: linear(`${at}.mlp.fc2`, hidden, width, { bias: true }),
          activation,
        },
      },
    };
  };
  return {
    vocab,
    hidden,
    contextLength: rope.kind === 'dynamic' ? Math.floor(positions * rope.factor) : positions,
    embedding: { path: 'model.embed_tokens' },
    ropes: [rope],
    layers: Array.from({ length: layers }, (_, index) => layer(index)),
    norm: layerNorm('model.final_layernorm', hidden, eps),
    output: readHead(config, entries, linear('lm_head', vocab, hidden, { bias: true }), { tied: false }),
    unread: /\.rotary_emb\.inv_freq$/,
  };
}

/** Phi-1, Phi-1.5 and Phi-2: `model_type` "phi". */
export const phi: ModelAdapter = decoderAdapter({ modelTypes: ['phi'], spec: phiSpec });
