// OPT: learned positions of which the first two rows are not used, biases everywhere. OPT-350m normalises after every sum instead of before attention and
// MLP, and has embeddings of another width than its layers.

import type { Entries, JsonObject, ModelAdapter } from '@lowbit/core';
import { readBoolean, readChoice, readInteger } from '../config.ts';
import { decoderAdapter } from '../decoder/adapter.ts';
import type { DecoderLayer, DecoderSpec, NormSpec, Sublayer } from '../decoder/spec.ts';
import { ACTIVATIONS, COUNT, dividedHeads, layerNorm, linear, POSITIONS, readHead, requireOn, SIZE, VOCAB } from './common.ts';

const OFFSET = 2;
const EPS = 1e-5;

/** What config.json of an OPT says, as a decoder. Throws as `llamaSpec`. */
function optSpec(config: JsonObject, entries: Entries): DecoderSpec {
  const hidden = readInteger(config, 'hidden_size', SIZE);
  const width = readInteger(config, 'ffn_dim', SIZE);
  const layers = readInteger(config, 'num_hidden_layers', COUNT);
  const heads = readInteger(config, 'num_attention_heads', COUNT);
  const vocab = readInteger(config, 'vocab_size', VOCAB);
  const positions = readInteger(config, 'max_position_embeddings', POSITIONS, 2048);
  const embedded = readInteger(config, 'word_embed_proj_dim', SIZE, hidden);
  const activation = readChoice(config, 'activation_function', ACTIVATIONS, 'relu');
  const before = readBoolean(config, 'do_layer_norm_before', true);
  const last = before && !readBoolean(config, '_remove_final_layer_norm', false);
  const bias = readBoolean(config, 'enable_bias', true);
  requireOn(config, 'layer_norm_elementwise_affine');
  const headDim = dividedHeads(hidden, heads);

  // Published files have the names of the model without its head, saved ones those of the model with it.
  const root = entries.has('model.decoder.embed_tokens.weight') ? 'model.decoder' : 'decoder';
  const layer = (index: number): DecoderLayer => {
    const at = `${root}.layers.${index}`;
    const normed = <M>(module: M, norm: NormSpec): Sublayer<M> => (before ? { module, input: norm } : { module, sum: norm });
    return {
      residual: 'sequential',
      attention: normed(
        {
          qkv: {
            kind: 'separate',
            q: linear(`${at}.self_attn.q_proj`, hidden, hidden, { bias }),
            k: linear(`${at}.self_attn.k_proj`, hidden, hidden, { bias }),
            v: linear(`${at}.self_attn.v_proj`, hidden, hidden, { bias }),
          },
          o: linear(`${at}.self_attn.out_proj`, hidden, hidden, { bias }),
          heads,
          kvHeads: heads,
          headDim,
          scale: headDim ** -0.5,
          position: { kind: 'none' },
        },
        layerNorm(`${at}.self_attn_layer_norm`, hidden, EPS),
      ),
      mlp: normed(
        { kind: 'plain', up: linear(`${at}.fc1`, width, hidden, { bias }), down: linear(`${at}.fc2`, hidden, width, { bias }), activation },
        layerNorm(`${at}.final_layer_norm`, hidden, EPS),
      ),
    };
  };
  const projected = embedded !== hidden;
  return {
    vocab,
    hidden,
    contextLength: positions,
    embedding: {
      path: `${root}.embed_tokens`,
      width: embedded,
      ...(projected && { project: linear(`${root}.project_in`, hidden, embedded) }),
      positions: { path: `${root}.embed_positions`, rows: positions + OFFSET, offset: OFFSET },
    },
    ropes: [],
    layers: Array.from({ length: layers }, (_, index) => layer(index)),
    ...(last && { norm: layerNorm(`${root}.final_layer_norm`, hidden, EPS) }),
    output: {
      ...(projected && { project: linear(`${root}.project_out`, embedded, hidden) }),
      ...readHead(config, entries, linear('lm_head', vocab, embedded), { tied: true }),
    },
  };
}

/** OPT: `model_type` "opt". */
export const opt: ModelAdapter = decoderAdapter({ modelTypes: ['opt'], spec: optSpec });
