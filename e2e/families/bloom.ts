// BLOOM: ALiBi in place of positions, a norm after the embedding, q, k and v of one head side by side, a tied head.

import type { Program } from '@lowbit/core';
import { Parts, type Tensors } from './parts.ts';

export interface BloomConfig {
  readonly hidden_size: number;
  readonly n_head: number;
  readonly n_layer: number;
  readonly layer_norm_epsilon: number;
}

/** Of the power of two below the number of heads; the rest are every other one of the power above. */
function alibiSlopes(heads: number): number[] {
  const power = 2 ** Math.floor(Math.log2(heads));
  const series = (count: number): number[] => Array.from({ length: count }, (_, i) => 2 ** ((-8 * (i + 1)) / count));
  const between = series(2 * power).filter((_, i) => i % 2 === 0);
  return [...series(power), ...between].slice(0, heads);
}

export function bloom(config: BloomConfig, tensors: Tensors): Program {
  const { n_head: heads, n_layer: layers, layer_norm_epsilon: eps } = config;
  const keyDim = config.hidden_size / heads;
  const slopes = alibiSlopes(heads);
  const p = new Parts(tensors, layers);
  const { b } = p;
  const table = p.weight('word_embeddings', 'both');
  let x = p.layerNorm(b.embed(table), 'word_embeddings_layernorm', eps);
  for (let i = 0; i < layers; i++) {
    p.layer(i, x);
    const path = `h.${i}`;
    const fused = p.linear(p.layerNorm(x, `${path}.input_layernorm`, eps), `${path}.self_attention.query_key_value`);
    const attended = p.attend(p.split(fused, [keyDim, keyDim, keyDim], heads), {
      heads,
      kvHeads: heads,
      keyDim,
      scale: keyDim ** -0.5,
      bias: { kind: 'alibi', slopes },
    });
    x = b.add(x, p.linear(attended, `${path}.self_attention.dense`));
    const normed = p.layerNorm(x, `${path}.post_attention_layernorm`, eps);
    x = b.add(x, p.mlp(normed, `${path}.mlp.dense_h_to_4h`, `${path}.mlp.dense_4h_to_h`, 'gelu_tanh'));
  }
  b.output('logits', b.linear(p.layerNorm(b.select(p.layer(layers, x)), 'ln_f', eps), table));
  return b.build();
}
