// OPT as its 350m: norms after the sums, learned positions from row 2 on, a narrow embedding with a projection at both ends, relu.

import type { Program } from '@lowbit/core';
import { Parts, type Tensors } from './parts.ts';

export interface OptConfig {
  readonly hidden_size: number;
  readonly num_attention_heads: number;
  readonly num_hidden_layers: number;
}

/** Not in the config. */
const EPS = 1e-5;

export function optPostnorm(config: OptConfig, tensors: Tensors): Program {
  const { num_attention_heads: heads, num_hidden_layers: layers } = config;
  const keyDim = config.hidden_size / heads;
  const p = new Parts(tensors, layers);
  const { b } = p;
  const table = p.weight('decoder.embed_tokens', 'both');
  const positions = p.constant('decoder.embed_positions.weight');
  let x = b.positionEmbed(p.linear(b.embed(table), 'decoder.project_in'), positions, { offset: 2 });
  for (let i = 0; i < layers; i++) {
    p.layer(i, x);
    const path = `decoder.layers.${i}`;
    const qkv = ['q', 'k', 'v'].map((name) => p.linear(x, `${path}.self_attn.${name}_proj`));
    const attended = p.attend(qkv, { heads, kvHeads: heads, keyDim, scale: keyDim ** -0.5 });
    x = p.layerNorm(b.add(x, p.linear(attended, `${path}.self_attn.out_proj`)), `${path}.self_attn_layer_norm`, EPS);
    x = p.layerNorm(b.add(x, p.mlp(x, `${path}.fc1`, `${path}.fc2`, 'relu')), `${path}.final_layer_norm`, EPS);
  }
  b.output('logits', b.linear(p.linear(b.select(p.layer(layers, x)), 'decoder.project_out'), table));
  return b.build();
}
