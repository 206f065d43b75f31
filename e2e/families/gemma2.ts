// Gemma 2: norms around both blocks with 1 + weight, capped scores and logits, a window in every other layer, scaled embeddings, a tied head.

import type { Program, TensorId } from '@lowbit/core';
import { frequencies, Parts, type Tensors } from './parts.ts';

export interface Gemma2Config {
  readonly hidden_size: number;
  readonly num_attention_heads: number;
  readonly num_key_value_heads: number;
  readonly num_hidden_layers: number;
  readonly head_dim: number;
  readonly rms_norm_eps: number;
  readonly rope_theta: number;
  readonly query_pre_attn_scalar: number;
  readonly sliding_window: number;
  readonly attn_logit_softcapping: number;
  readonly final_logit_softcapping: number;
}

export function gemma2(config: Gemma2Config, tensors: Tensors): Program {
  const { num_attention_heads: heads, num_key_value_heads: kvHeads, num_hidden_layers: layers, head_dim: keyDim } = config;
  const p = new Parts(tensors, layers);
  const { b } = p;
  const norm = (x: TensorId, path: string): TensorId => p.rmsNorm(x, path, config.rms_norm_eps, 1);
  const rope = b.addRope({ kind: 'fixed', frequencies: frequencies(config.rope_theta, keyDim), scale: 1 });
  const turn = (x: TensorId, count: number): TensorId => b.rope(x, { heads: count, dim: keyDim, style: 'half', rope });
  const table = p.weight('model.embed_tokens', 'both');
  let x = b.embed(table, { scale: Math.sqrt(config.hidden_size) });
  for (let i = 0; i < layers; i++) {
    p.layer(i, x);
    const path = `model.layers.${i}`;
    const normed = norm(x, `${path}.input_layernorm`);
    const [q, k, v] = ['q', 'k', 'v'].map((name) => p.linear(normed, `${path}.self_attn.${name}_proj`));
    const attended = p.attend([turn(q!, heads), turn(k!, kvHeads), v!], {
      heads,
      kvHeads,
      keyDim,
      scale: config.query_pre_attn_scalar ** -0.5,
      softcap: config.attn_logit_softcapping,
      window: i % 2 === 0 ? config.sliding_window : undefined,
    });
    x = b.add(x, norm(p.linear(attended, `${path}.self_attn.o_proj`), `${path}.post_attention_layernorm`));
    const fed = p.gatedMlp(norm(x, `${path}.pre_feedforward_layernorm`), `${path}.mlp`, 'gelu_tanh');
    x = b.add(x, norm(fed, `${path}.post_feedforward_layernorm`));
  }
  const last = norm(b.select(p.layer(layers, x)), 'model.norm');
  b.output('logits', b.softcap(b.linear(last, table), config.final_logit_softcapping));
  return b.build();
}
