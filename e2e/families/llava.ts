// LLaVA: the CLIP tower without its last layer, two linears, and the rows put in place of the image tokens of a Llama.

import type { Program } from '@lowbit/core';
import { type ClipVisionConfig, clipLayers } from './clip.ts';
import { type LlamaLikeConfig, llamaLike } from './llama-like.ts';
import { Parts, type Tensors } from './parts.ts';

export interface LlavaConfig {
  readonly image_token_index: number;
  readonly vision_feature_layer: number;
  readonly text_config: LlamaLikeConfig;
  readonly vision_config: ClipVisionConfig;
}

/** To `image_features` of the wanted rows: all but the class row. */
export function llavaVision(config: LlavaConfig, tensors: Tensors): Program {
  const layers = config.vision_config.num_hidden_layers + 1 + config.vision_feature_layer;
  const p = new Parts(tensors, layers);
  const x = clipLayers(p, config.vision_config, 'vision_tower.vision_model', layers);
  p.b.output('image_features', p.mlp(p.b.select(x), 'multi_modal_projector.linear_1', 'multi_modal_projector.linear_2', 'gelu'));
  return p.b.build();
}

export function llavaText(config: LlavaConfig, tensors: Tensors): Program {
  return llamaLike(config.text_config, tensors, { prefix: 'language_model.', inject: 'image' });
}
