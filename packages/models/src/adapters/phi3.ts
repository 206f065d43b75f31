// Phi-3, Phi-3.5 mini and Phi-4 mini: Llama with q, k and v in one linear and gate and up in another; LongRoPE where the context was made longer.

import type { Entries, JsonObject, ModelAdapter } from '@lowbit/core';
import { given, readOptionalInteger } from '../config.ts';
import { decoderAdapter } from '../decoder/adapter.ts';
import { longRope, type RopeReaders } from '../decoder/rope.ts';
import type { DecoderSpec } from '../decoder/spec.ts';
import { linear, mapAttention, mapLayers, POSITIONS } from './common.ts';
import { llamaSpec } from './llama.ts';

/** What config.json of a Phi-3 says, as a decoder. Throws as `llamaSpec`. */
function phi3Spec(config: JsonObject, entries: Entries): DecoderSpec {
  // The original length is a key of the config itself in published files.
  const original = given(config, 'original_max_position_embeddings');
  const long: RopeReaders[string] = (parameters, theta, context) =>
    longRope(original === undefined ? parameters : { original_max_position_embeddings: original, ...parameters }, theta, context);
  const spec = llamaSpec(config, entries, {
    positions: 4096,
    eps: 1e-5,
    biases: { qkv: false, o: false, mlp: false },
    ropes: { longrope: long, su: long, yarn: long }, // `su` and `yarn` are what early files call it
  });
  const window = readOptionalInteger(config, 'sliding_window', POSITIONS);
  const { hidden } = spec;
  const fused = mapAttention(spec, ({ heads, kvHeads, headDim }, layer) => ({
    qkv: {
      kind: 'fused',
      qkv: linear(`model.layers.${layer}.self_attn.qkv_proj`, (heads + 2 * kvHeads) * headDim, hidden),
      order: 'blocks',
    },
    ...(window === undefined ? {} : { window }),
  }));
  return mapLayers(fused, (layer, index) => {
    const { module } = layer.mlp;
    if (module.kind !== 'gated') return layer;
    const { down, activation } = module;
    const gateUp = linear(`model.layers.${index}.mlp.gate_up_proj`, 2 * down.shape[1], hidden);
    return { ...layer, mlp: { ...layer.mlp, module: { kind: 'gated-fused', gateUp, down, activation } } };
  });
}

/** Phi-3 and its successors: `model_type` "phi3". */
export const phi3: ModelAdapter = decoderAdapter({ modelTypes: ['phi3'], spec: phi3Spec });
