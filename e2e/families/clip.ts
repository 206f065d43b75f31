// The image tower of CLIP: patches as input rows, a class row before them, no mask, quick_gelu.

import { float32Tensor, type HostTensor, type Program, type TensorId, toFloat32 } from '@lowbit/core';
import { Parts, type Tensors } from './parts.ts';

export interface ClipVisionConfig {
  readonly hidden_size: number;
  readonly num_attention_heads: number;
  readonly num_hidden_layers: number;
  readonly layer_norm_eps: number;
  readonly patch_size: number;
}

/**
 * Pixels [channels, side, side] as rows of a convolution whose stride is its size, after a row of zeros: the class row, whose embedding the program
 * adds with its position.
 */
export function patchRows(pixels: Float32Array, channels: number, side: number, patch: number): HostTensor {
  const across = side / patch;
  const width = channels * patch * patch;
  const rows = new Float32Array((1 + across * across) * width);
  for (let at = width; at < rows.length; at++) {
    const tile = Math.floor(at / width) - 1;
    const [channel, inner] = [Math.floor((at % width) / patch ** 2), at % patch ** 2];
    const y = Math.floor(tile / across) * patch + Math.floor(inner / patch);
    const x = (tile % across) * patch + (inner % patch);
    rows[at] = pixels[(channel * side + y) * side + x]!;
  }
  return float32Tensor([1 + across * across, width], rows);
}

/** Positions, with the class embedding in the first. */
function positionTable(p: Parts, module: string): HostTensor {
  const { shape, ...table } = p.tensor(`${module}.position_embedding.weight`);
  const rows = toFloat32({ shape, ...table }).slice();
  for (const [i, value] of toFloat32(p.tensor(`${module}.class_embedding`)).entries()) rows[i]! += value;
  return float32Tensor(shape, rows);
}

/** The first `layers` layers. */
export function clipLayers(p: Parts, config: ClipVisionConfig, model: string, layers: number): TensorId {
  const { num_attention_heads: heads, layer_norm_eps: eps } = config;
  const keyDim = config.hidden_size / heads;
  const { b } = p;
  const patches = b.input('patches', { width: 3 * config.patch_size ** 2 });
  const placed = b.positionEmbed(
    p.linear(patches, `${model}.embeddings.patch_embedding`),
    b.addConstant(positionTable(p, `${model}.embeddings`)),
  );
  let x = p.layerNorm(placed, `${model}.pre_layrnorm`, eps);
  for (let i = 0; i < layers; i++) {
    p.layer(i, x);
    const path = `${model}.encoder.layers.${i}`;
    const normed = p.layerNorm(x, `${path}.layer_norm1`, eps);
    const [q, k, v] = ['q', 'k', 'v'].map((name) => p.linear(normed, `${path}.self_attn.${name}_proj`));
    const attended = b.attend(q!, { k, v, heads, keyDim, scale: keyDim ** -0.5, causal: false });
    x = b.add(x, p.linear(attended, `${path}.self_attn.out_proj`));
    x = b.add(x, p.mlp(p.layerNorm(x, `${path}.layer_norm2`, eps), `${path}.mlp.fc1`, `${path}.mlp.fc2`, 'quick_gelu'));
  }
  return p.layer(layers, x);
}

/** To `image_embeds` of the wanted rows: the class row. */
export function clipVision(config: ClipVisionConfig, tensors: Tensors): Program {
  const p = new Parts(tensors, config.num_hidden_layers);
  const x = clipLayers(p, config, 'vision_model', config.num_hidden_layers);
  const pooled = p.layerNorm(p.b.select(x), 'vision_model.post_layernorm', config.layer_norm_eps);
  p.b.output('pooler_output', pooled);
  p.b.output('image_embeds', p.linear(pooled, 'visual_projection'));
  return p.b.build();
}
