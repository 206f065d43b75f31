// OLMo 2: Llama without norms in front of attention and MLP; their outputs are normalised instead, and queries and keys, all heads together.

import type { Entries, JsonObject, ModelAdapter } from '@lowbit/core';
import { decoderAdapter } from '../decoder/adapter.ts';
import type { DecoderSpec } from '../decoder/spec.ts';
import { mapAttention, mapLayers } from './common.ts';
import { headNorms } from './head-norms.ts';
import { llamaSpec } from './llama.ts';

/** What config.json of an OLMo 2 says, as a decoder. Throws as `llamaSpec`. */
function olmo2Spec(config: JsonObject, entries: Entries): DecoderSpec {
  const eps = 1e-5;
  const spec = llamaSpec(config, entries, { eps, biases: { mlp: false } });
  const normed = mapAttention(spec, headNorms(config, { over: 'all', eps }));
  return mapLayers(normed, ({ residual, attention, mlp }, index) => ({
    residual,
    attention: { module: attention.module, output: mlp.input! }, // post_attention_layernorm is what its name says here
    mlp: { module: mlp.module, output: { ...mlp.input!, path: `model.layers.${index}.post_feedforward_layernorm` } },
  }));
}

/** OLMo 2: `model_type` "olmo2". */
export const olmo2: ModelAdapter = decoderAdapter({ modelTypes: ['olmo2'], spec: olmo2Spec });
