// Phi-3: q, k, v and gate, up in one matrix each, LongRoPE over a part of each head, a tied head.

import type { Program, TensorId } from '@lowbit/core';
import { frequencies, Parts, type Tensors } from './parts.ts';

export interface Phi3Config {
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_attention_heads: number;
  readonly num_key_value_heads: number;
  readonly num_hidden_layers: number;
  readonly rms_norm_eps: number;
  readonly rope_theta: number;
  readonly sliding_window: number;
  readonly partial_rotary_factor: number;
  readonly max_position_embeddings: number;
  readonly original_max_position_embeddings: number;
  readonly rope_scaling: { readonly short_factor: readonly number[]; readonly long_factor: readonly number[] };
}

export function phi3(config: Phi3Config, tensors: Tensors): Program {
  const { num_attention_heads: heads, num_key_value_heads: kvHeads, num_hidden_layers: layers, rms_norm_eps: eps } = config;
  const { original_max_position_embeddings: original, rope_scaling: scaling, intermediate_size: wide } = config;
  const keyDim = config.hidden_size / heads;
  const dim = keyDim * config.partial_rotary_factor;
  const p = new Parts(tensors, layers);
  const { b } = p;
  const divided = (factors: readonly number[]): number[] => frequencies(config.rope_theta, dim).map((f, i) => f / factors[i]!);
  const rope = b.addRope({
    kind: 'long',
    short: divided(scaling.short_factor),
    long: divided(scaling.long_factor),
    original,
    scale: Math.sqrt(1 + Math.log(config.max_position_embeddings / original) / Math.log(original)),
  });
  const turn = (x: TensorId, count: number): TensorId => b.rope(x, { heads: count, dim, style: 'half', rope });
  const table = p.weight('model.embed_tokens', 'both');
  let x = b.embed(table);
  for (let i = 0; i < layers; i++) {
    p.layer(i, x);
    const path = `model.layers.${i}`;
    const fused = p.linear(p.rmsNorm(x, `${path}.input_layernorm`, eps), `${path}.self_attn.qkv_proj`);
    const [q, k, v] = p.split(fused, [heads * keyDim, kvHeads * keyDim, kvHeads * keyDim]);
    const attended = p.attend([turn(q!, heads), turn(k!, kvHeads), v!], {
      heads,
      kvHeads,
      keyDim,
      scale: keyDim ** -0.5,
      window: config.sliding_window,
    });
    x = b.add(x, p.linear(attended, `${path}.self_attn.o_proj`));
    const normed = p.rmsNorm(x, `${path}.post_attention_layernorm`, eps);
    const [gate, up] = p.split(p.linear(normed, `${path}.mlp.gate_up_proj`), [wide, wide]);
    x = b.add(x, p.linear(b.gate(gate!, up!, 'silu'), `${path}.mlp.down_proj`));
  }
  b.output('logits', b.linear(p.rmsNorm(b.select(p.layer(layers, x)), 'model.norm', eps), table));
  return b.build();
}
