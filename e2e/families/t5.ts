// T5 v1.1 (flan-t5): two stacks with relative bias, joined by cross attention. Three programs: the encoder over tokens, the decoder over the encoder's
// rows, and both in one over embedded encoder tokens. Scores are not scaled; one table of biases serves all blocks of a stack.

import type { PositionBias, Program, TensorId } from '@lowbit/core';
import { Parts, type Tensors } from './parts.ts';

export interface T5Config {
  readonly d_model: number;
  readonly d_kv: number;
  readonly num_heads: number;
  readonly num_layers: number;
  readonly num_decoder_layers: number;
  readonly layer_norm_epsilon: number;
  readonly relative_attention_num_buckets: number;
  readonly relative_attention_max_distance: number;
}

function relativeBias(p: Parts, config: T5Config, stack: 'encoder' | 'decoder'): PositionBias {
  return {
    kind: 'relative',
    table: p.constant(`${stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight`),
    buckets: config.relative_attention_num_buckets,
    maxDistance: config.relative_attention_max_distance,
    bidirectional: stack === 'encoder',
  };
}

const feedForward = (p: Parts, x: TensorId, path: string, eps: number): TensorId =>
  p.b.add(x, p.gatedMlp(p.rmsNorm(x, `${path}.layer_norm`, eps), `${path}.DenseReluDense`, 'gelu_tanh', ['wi_0', 'wi_1', 'wo']));

/** Every row sees every row of its sequence: no cache. */
function encoderStack(p: Parts, config: T5Config, embedded: TensorId): TensorId {
  const { num_heads: heads, d_kv: keyDim, num_layers: layers, layer_norm_epsilon: eps } = config;
  const bias = relativeBias(p, config, 'encoder');
  let x = embedded;
  for (let i = 0; i < layers; i++) {
    p.layer(i, x, 'encoder.hidden');
    const path = `encoder.block.${i}.layer`;
    const normed = p.rmsNorm(x, `${path}.0.layer_norm`, eps);
    const [q, k, v] = ['q', 'k', 'v'].map((name) => p.linear(normed, `${path}.0.SelfAttention.${name}`));
    const attended = p.b.attend(q!, { k, v, heads, keyDim, scale: 1, causal: false, bias });
    x = feedForward(p, p.b.add(x, p.linear(attended, `${path}.0.SelfAttention.o`)), `${path}.1`, eps);
  }
  const out = p.rmsNorm(p.layer(layers, x, 'encoder.hidden'), 'encoder.final_layer_norm', eps);
  p.b.output('encoder_output', out);
  return out;
}

/** `encoded`: the encoder's rows, in the step that hands them in; keys and values of cross attention stay. Its layers begin at `first`. */
function decoderStack(p: Parts, config: T5Config, encoded: TensorId, first: number): void {
  const { num_heads: heads, d_kv: keyDim, num_decoder_layers: layers, layer_norm_epsilon: eps } = config;
  const bias = relativeBias(p, config, 'decoder');
  let x = p.b.embed(p.weight('shared', 'embedding'));
  for (let i = 0; i < layers; i++) {
    p.layer(i, x, 'decoder.hidden', first);
    const path = `decoder.block.${i}.layer`;
    const normed = p.rmsNorm(x, `${path}.0.layer_norm`, eps);
    const qkv = ['q', 'k', 'v'].map((name) => p.linear(normed, `${path}.0.SelfAttention.${name}`));
    x = p.b.add(x, p.linear(p.attend(qkv, { heads, kvHeads: heads, keyDim, scale: 1, bias }), `${path}.0.SelfAttention.o`));
    const cross = `${path}.1.EncDecAttention`;
    const cache = p.b.addCache({ rows: 'encoder', heads, keyDim, valueDim: keyDim });
    p.b.remember(p.linear(encoded, `${cross}.k`), p.linear(encoded, `${cross}.v`), cache);
    const q = p.linear(p.rmsNorm(x, `${path}.1.layer_norm`, eps), `${cross}.q`);
    x = p.b.add(x, p.linear(p.b.attend(q, { cache, heads, keyDim, scale: 1, causal: false }), `${cross}.o`));
    x = feedForward(p, x, `${path}.2`, eps);
  }
  const last = p.rmsNorm(p.b.select(p.layer(layers, x, 'decoder.hidden', first)), 'decoder.final_layer_norm', eps);
  p.b.output('logits', p.linear(last, 'lm_head'));
}

/** Tokens to `encoder_output`. */
export function t5Encoder(config: T5Config, tensors: Tensors): Program {
  const p = new Parts(tensors, config.num_layers);
  encoderStack(p, config, p.b.embed(p.weight('shared', 'embedding')));
  return p.b.build();
}

/** Tokens and, once, the encoder rows `encoder_output`, to logits. */
export function t5Decoder(config: T5Config, tensors: Tensors): Program {
  const p = new Parts(tensors, config.num_decoder_layers);
  decoderStack(p, config, p.b.input('encoder_output', { rows: 'encoder', width: config.d_model }), 0);
  return p.b.build();
}

/** Tokens and, once, the encoder rows `embedded`, to logits. */
export function t5(config: T5Config, tensors: Tensors): Program {
  const p = new Parts(tensors, config.num_layers + config.num_decoder_layers);
  const encoded = encoderStack(p, config, p.b.input('embedded', { rows: 'encoder', width: config.d_model }));
  decoderStack(p, config, encoded, config.num_layers);
  return p.b.build();
}
