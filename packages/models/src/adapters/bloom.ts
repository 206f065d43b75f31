// BLOOM: no positions but slopes of scores (ALiBi), a norm right after the embedding, q, k and v of one head after another.

import type { Entries, JsonObject, ModelAdapter } from '@lowbit/core';
import { given, readInteger, readNumber } from '../config.ts';
import { decoderAdapter } from '../decoder/adapter.ts';
import type { DecoderLayer, DecoderSpec } from '../decoder/spec.ts';
import { COUNT, dividedHeads, EPS, layerNorm, linear, POSITIONS, readHead, requireOff, SIZE, VOCAB } from './common.ts';

/**
 * Slope of each head (arXiv 2108.12409): 2^(-8i/p) for i = 1 .. p, p the largest power of two up to `heads`; of further heads the 1st, 3rd, ... of those of
 * 2p heads.
 */
export function alibiSlopes(heads: number): readonly number[] {
  const power = 2 ** Math.floor(Math.log2(heads));
  return Array.from({ length: heads }, (_, i) => 2 ** (i < power ? (-8 * (i + 1)) / power : (-4 * (2 * (i - power) + 1)) / power));
}

/** What config.json of a BLOOM says, as a decoder. Throws as `llamaSpec`. */
function bloomSpec(config: JsonObject, entries: Entries): DecoderSpec {
  const hidden = readInteger(config, given(config, 'n_embed') === undefined ? 'hidden_size' : 'n_embed', SIZE);
  const [layersKey, headsKey] = ['n_layer', 'n_head'].map((key, i) =>
    given(config, key) === undefined ? (['num_hidden_layers', 'num_attention_heads'] as const)[i]! : key,
  );
  const layers = readInteger(config, layersKey!, COUNT);
  const heads = readInteger(config, headsKey!, COUNT);
  const vocab = readInteger(config, 'vocab_size', VOCAB);
  const eps = readNumber(config, 'layer_norm_epsilon', EPS, 1e-5);
  const headDim = dividedHeads(hidden, heads, [headsKey!, 'hidden_size']);
  requireOff(config, 'apply_residual_connection_post_layernorm');
  const slopes = alibiSlopes(heads);

  // Published files of the smaller models have the names of the model without its head, others those of the model with it.
  const root = entries.has('transformer.word_embeddings.weight') ? 'transformer.' : '';
  const layer = (index: number): DecoderLayer => {
    const at = `${root}h.${index}`;
    return {
      residual: 'sequential',
      attention: {
        input: layerNorm(`${at}.input_layernorm`, hidden, eps),
        module: {
          qkv: { kind: 'fused', qkv: linear(`${at}.self_attention.query_key_value`, 3 * hidden, hidden, { bias: true }), order: 'heads' },
          o: linear(`${at}.self_attention.dense`, hidden, hidden, { bias: true }),
          heads,
          kvHeads: heads,
          headDim,
          scale: headDim ** -0.5,
          position: { kind: 'alibi', slopes },
        },
      },
      mlp: {
        input: layerNorm(`${at}.post_attention_layernorm`, hidden, eps),
        module: {
          kind: 'plain',
          up: linear(`${at}.mlp.dense_h_to_4h`, 4 * hidden, hidden, { bias: true }),
          down: linear(`${at}.mlp.dense_4h_to_h`, hidden, 4 * hidden, { bias: true }),
          activation: 'gelu_tanh',
        },
      },
    };
  };
  return {
    vocab,
    hidden,
    // Slopes have no end; this is what the models were trained on.
    contextLength: readInteger(config, 'seq_length', POSITIONS, 2048),
    embedding: { path: `${root}word_embeddings`, norm: layerNorm(`${root}word_embeddings_layernorm`, hidden, eps) },
    ropes: [],
    layers: Array.from({ length: layers }, (_, index) => layer(index)),
    norm: layerNorm(`${root}ln_f`, hidden, eps),
    output: readHead(config, entries, linear('lm_head', vocab, hidden), { tied: true }),
  };
}

/** BLOOM and BLOOMZ: `model_type` "bloom". */
export const bloom: ModelAdapter = decoderAdapter({ modelTypes: ['bloom'], spec: bloomSpec });
