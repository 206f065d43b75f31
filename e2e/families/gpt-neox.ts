// GPT-NeoX and Pythia: attention and MLP side by side on the layer's input, a quarter of each head rotated, q, k and v of one head side by side.

import type { Program, TensorId } from '@lowbit/core';
import { frequencies, Parts, type Tensors } from './parts.ts';

export interface GptNeoxConfig {
  readonly hidden_size: number;
  readonly num_attention_heads: number;
  readonly num_hidden_layers: number;
  readonly layer_norm_eps: number;
  readonly rotary_pct: number;
  readonly rotary_emb_base: number;
}

export function gptNeox(config: GptNeoxConfig, tensors: Tensors): Program {
  const { num_attention_heads: heads, num_hidden_layers: layers, layer_norm_eps: eps } = config;
  const keyDim = config.hidden_size / heads;
  const dim = keyDim * config.rotary_pct;
  const p = new Parts(tensors, layers);
  const { b } = p;
  const rope = b.addRope({ kind: 'fixed', frequencies: frequencies(config.rotary_emb_base, dim), scale: 1 });
  const turn = (x: TensorId): TensorId => b.rope(x, { heads, dim, style: 'half', rope });
  let x = b.embed(p.weight('gpt_neox.embed_in', 'embedding'));
  for (let i = 0; i < layers; i++) {
    p.layer(i, x);
    const path = `gpt_neox.layers.${i}`;
    const fused = p.linear(p.layerNorm(x, `${path}.input_layernorm`, eps), `${path}.attention.query_key_value`);
    const [q, k, v] = p.split(fused, [keyDim, keyDim, keyDim], heads);
    const attended = p.attend([turn(q!), turn(k!), v!], { heads, kvHeads: heads, keyDim, scale: keyDim ** -0.5 });
    const normed = p.layerNorm(x, `${path}.post_attention_layernorm`, eps);
    const fed = p.mlp(normed, `${path}.mlp.dense_h_to_4h`, `${path}.mlp.dense_4h_to_h`, 'gelu');
    x = b.add(b.add(x, p.linear(attended, `${path}.attention.dense`)), fed);
  }
  b.output('logits', p.linear(p.layerNorm(b.select(p.layer(layers, x)), 'gpt_neox.final_layer_norm', eps), 'embed_out'));
  return b.build();
}
