// Gemma 1: Llama whose norm weights are 1 + w and whose embeddings are multiplied by sqrt(hidden_size). Gemma 2: outputs of attention and MLP normalised,
// too, soft caps, a window in every other layer. Gemma 3 (text): norms of queries and keys in place of caps, most layers local, with rotary
// frequencies of their own.

import type { Entries, JsonObject, ModelAdapter } from '@lowbit/core';
import { given, readInteger, readNumber, readObject, readOptionalNumber } from '../config.ts';
import { decoderAdapter } from '../decoder/adapter.ts';
import { ropeOf, ropeParameters } from '../decoder/rope.ts';
import type { DecoderSpec, NormSpec } from '../decoder/spec.ts';
import { COUNT, FACTOR, mapAttention, mapLayers, readWindows, requireOff, withWindows } from './common.ts';
import { headNorms } from './head-norms.ts';
import { type LlamaTraits, llamaSpec } from './llama.ts';

const TRAITS: LlamaTraits = {
  positions: 8192,
  activation: 'gelu_pytorch_tanh',
  tied: true,
  headDim: 256,
  weightOffset: 1,
  biases: { mlp: false },
};

const scaled = (spec: DecoderSpec): DecoderSpec => ({ ...spec, embedding: { ...spec.embedding, scale: Math.sqrt(spec.hidden) } });

/** What config.json of a Gemma 1 says, as a decoder. Throws as `llamaSpec`. */
function gemmaSpec(config: JsonObject, entries: Entries): DecoderSpec {
  // Published configs say gelu; what the models were trained with is its approximation by tanh.
  const named = given(config, 'hidden_activation') ?? given(config, 'hidden_act');
  const activation = named === undefined || named === 'gelu' ? 'gelu_pytorch_tanh' : named;
  return scaled(llamaSpec({ ...config, hidden_act: activation }, entries, TRAITS));
}

/** Gemma 2 and 3: four norms a layer, the scale of scores, soft caps and windows. */
function gemma2Like(
  config: JsonObject,
  entries: Entries,
  {
    traits,
    caps,
    slides,
  }: { readonly traits: LlamaTraits; readonly caps: readonly [number, number] | undefined; readonly slides: (layer: number) => boolean },
): DecoderSpec {
  requireOff(config, 'use_bidirectional_attention');
  const spec = llamaSpec(config, entries, { ...traits, activationKey: 'hidden_activation' });
  const scale = readNumber(config, 'query_pre_attn_scalar', FACTOR, 256) ** -0.5;
  const softcap = readOptionalNumber(config, 'attn_logit_softcapping', FACTOR, caps?.[0]);
  const last = readOptionalNumber(config, 'final_logit_softcapping', FACTOR, caps?.[1]);
  const windows = readWindows(config, spec.layers.length, { slides, window: 4096 });
  const capped = mapAttention(spec, () => ({ scale, ...(softcap === undefined ? {} : { softcap }) }));
  const normed = mapLayers(capped, ({ residual, attention, mlp }, index) => {
    const norm = (name: string): NormSpec => ({ ...mlp.input!, path: `model.layers.${index}.${name}` });
    return {
      residual,
      attention: { ...attention, output: norm('post_attention_layernorm') },
      mlp: { ...mlp, input: norm('pre_feedforward_layernorm'), output: norm('post_feedforward_layernorm') },
    };
  });
  const { output } = spec;
  return { ...withWindows(scaled(normed), windows), output: last === undefined ? output : { ...output, softcap: last } };
}

/** What config.json of a Gemma 2 says, as a decoder. Throws as `llamaSpec`. */
function gemma2Spec(config: JsonObject, entries: Entries): DecoderSpec {
  return gemma2Like(config, entries, { traits: TRAITS, caps: [50, 30], slides: (layer) => layer % 2 === 0 });
}

/** What config.json of the text model of a Gemma 3 says, as a decoder. Throws as `llamaSpec`. */
function gemma3Spec(config: JsonObject, entries: Entries): DecoderSpec {
  const pattern = readInteger(config, 'sliding_window_pattern', COUNT, readInteger(config, '_sliding_window_pattern', COUNT, 6));
  const { global, local } = gemma3Ropes(config);
  const spec = gemma2Like({ ...config, ...global }, entries, {
    traits: { ...TRAITS, positions: 2 ** 17, theta: 1e6 },
    caps: undefined,
    slides: (layer) => (layer + 1) % pattern !== 0,
  });
  const [rope] = spec.ropes;
  const first = spec.layers[0]!.attention.module.position;
  const rotated = first.kind === 'rope' ? first.rotated : 0;
  const turned = mapAttention(mapAttention(spec, headNorms(config, { weightOffset: 1 })), ({ window }) => ({
    position: { kind: 'rope', rope: window === undefined ? 0 : 1, rotated },
  }));
  return { ...turned, ropes: [rope!, ropeOf(ropeParameters(local, 1e4), { dim: rotated, positions: spec.contextLength })] };
}

/** The keys of rotary frequencies of global and of local layers, as a config of one kind of layers has them. */
function gemma3Ropes(config: JsonObject): { readonly global: JsonObject; readonly local: JsonObject } {
  const both = readObject(config, 'rope_parameters');
  if (both === undefined) return { global: {}, local: { rope_theta: given(config, 'rope_local_base_freq') ?? 1e4 } };
  const of = (key: string): JsonObject => ({ rope_parameters: readObject(both, key) ?? {} });
  return { global: of('full_attention'), local: of('sliding_attention') };
}

/** Gemma 1: `model_type` "gemma". */
export const gemma: ModelAdapter = decoderAdapter({ modelTypes: ['gemma'], spec: gemmaSpec });

/** Gemma 2: `model_type` "gemma2". */
export const gemma2: ModelAdapter = decoderAdapter({ modelTypes: ['gemma2'], spec: gemma2Spec });

/** The text model of Gemma 3: `model_type` "gemma3_text". */
export const gemma3: ModelAdapter = decoderAdapter({ modelTypes: ['gemma3_text'], spec: gemma3Spec });
