// What many families took from Llama: projections of their own, rotation of halves, grouped heads, two norms a layer.

import type { Program, TensorId } from '@lowbit/core';
import { frequencies, Parts, type Tensors } from './parts.ts';

export interface LlamaLikeConfig {
  readonly hidden_size: number;
  readonly num_attention_heads: number;
  readonly num_key_value_heads: number;
  readonly num_hidden_layers: number;
  readonly head_dim?: number;
  readonly rms_norm_eps: number;
  readonly rope_theta: number;
  readonly tie_word_embeddings: boolean;
}

/** Where a family differs. */
export interface Differences {
  /** Before `model.` and `lm_head`. */
  readonly prefix?: string;
  readonly embeddingScale?: number;
  readonly residualFactor?: number;
  readonly attentionScale?: number;
  readonly logitsFactor?: number;
  /** q_norm and k_norm over each head. */
  readonly headNorms?: boolean;
  /** Rows replaced after the embedding. */
  readonly inject?: string;
  /** Default: the gated MLP. */
  readonly feedForward?: (p: Parts, x: TensorId, path: string) => TensorId;
}

export function llamaLike(config: LlamaLikeConfig, tensors: Tensors, differences: Differences = {}): Program {
  const { hidden_size, num_attention_heads: heads, num_key_value_heads: kvHeads, num_hidden_layers: layers, rms_norm_eps: eps } = config;
  const { prefix = '', residualFactor = 1, feedForward = (p, x, path) => p.gatedMlp(x, `${path}.mlp`, 'silu') } = differences;
  const keyDim = config.head_dim ?? hidden_size / heads;
  const { attentionScale: scale = keyDim ** -0.5 } = differences;
  const p = new Parts(tensors, layers);
  const { b } = p;
  const rope = b.addRope({ kind: 'fixed', frequencies: frequencies(config.rope_theta, keyDim), scale: 1 });
  const table = p.weight(`${prefix}model.embed_tokens`, config.tie_word_embeddings ? 'both' : 'embedding');
  let x = b.embed(table, { scale: differences.embeddingScale ?? 1 });
  if (differences.inject) x = b.inject(x, differences.inject);
  for (let i = 0; i < layers; i++) {
    p.layer(i, x);
    const path = `${prefix}model.layers.${i}`;
    const normed = p.rmsNorm(x, `${path}.input_layernorm`, eps);
    const turned = (name: string, count: number): TensorId => {
      const y = p.linear(normed, `${path}.self_attn.${name}_proj`);
      const weight = differences.headNorms ? p.constant(`${path}.self_attn.${name}_norm.weight`) : undefined;
      const own = weight === undefined ? y : b.norm(y, { kind: 'rms', eps, groups: count, weight });
      return b.rope(own, { heads: count, dim: keyDim, style: 'half', rope });
    };
    const qkv = [turned('q', heads), turned('k', kvHeads), p.linear(normed, `${path}.self_attn.v_proj`)];
    const attended = p.linear(p.attend(qkv, { heads, kvHeads, keyDim, scale }), `${path}.self_attn.o_proj`);
    x = b.add(x, attended, residualFactor);
    x = b.add(x, feedForward(p, p.rmsNorm(x, `${path}.post_attention_layernorm`, eps), path), residualFactor);
  }
  const last = p.rmsNorm(b.select(p.layer(layers, x)), `${prefix}model.norm`, eps);
  const logits = b.linear(last, config.tie_word_embeddings ? table : p.weight(`${prefix}lm_head`));
  b.output('logits', differences.logitsFactor === undefined ? logits : b.scale(logits, differences.logitsFactor));
  return b.build();
}
