// Qwen2-MoE and Qwen3-MoE: Qwen2 and Qwen3 with experts in place of the MLP of most layers; Qwen2's also have a shared expert behind a gate of one element.

import type { Entries, JsonObject, ModelAdapter } from '@lowbit/core';
import { readBoolean, readInteger, readList, readOptionalInteger } from '../config.ts';
import { decoderAdapter } from '../decoder/adapter.ts';
import type { DecoderSpec, ExpertsMlp, GatedMlp } from '../decoder/spec.ts';
import { COUNT, kept, linear, mapAttention, mapLayers, POSITIONS, readWindows, SIZE, withWindows } from './common.ts';
import { expertsMlp, readExperts } from './experts.ts';
import { headNorms } from './head-norms.ts';
import { llamaSpec } from './llama.ts';

interface QwenExperts {
  /** moe_intermediate_size where it is absent. */
  readonly width: number;
  readonly topK: number;
  /** Adds what a family has beside the chosen experts. */
  readonly also?: (mlp: ExpertsMlp, module: string, dense: GatedMlp) => ExpertsMlp;
}

/** Experts in every decoder_sparse_step-th layer that is not of mlp_only_layers. */
function withExperts(config: JsonObject, entries: Entries, spec: DecoderSpec, { width: fallback, topK, also }: QwenExperts): DecoderSpec {
  const count = spec.layers.length;
  const chosen = readExperts(config, { keys: ['num_experts', 'num_local_experts'], topK, layers: count });
  const width = readInteger(config, 'moe_intermediate_size', SIZE, fallback);
  const step = readInteger(config, 'decoder_sparse_step', COUNT, 1);
  const dense =
    readList(config, 'mlp_only_layers', { most: count }, (list, key) => readInteger(list, key, { min: 0, max: COUNT.max })) ?? [];
  return mapLayers(spec, (layer, index) => {
    const { module } = layer.mlp;
    if (module.kind !== 'gated' || dense.includes(index) || (index + 1) % step !== 0) return layer;
    const at = `model.layers.${index}.mlp`;
    const names = { module: at, gate: 'gate_proj', up: 'up_proj', down: 'down_proj' };
    const numbers = { ...chosen, hidden: spec.hidden, width, activation: module.activation };
    const experts = expertsMlp(entries, names, at, numbers);
    return { ...layer, mlp: { ...layer.mlp, module: also ? also(experts, at, module) : experts } };
  });
}

/** What config.json of a Qwen2-MoE says, as a decoder. Throws as `llamaSpec`. */
function qwen2MoeSpec(config: JsonObject, entries: Entries): DecoderSpec {
  const qkv = readBoolean(config, 'qkv_bias', true);
  const spec = llamaSpec(config, entries, { positions: 2 ** 15, biases: { qkv, o: false, mlp: false } });
  const { hidden } = spec;
  const width = readInteger(config, 'shared_expert_intermediate_size', SIZE, 5632);
  const shared = (at: string, { activation }: GatedMlp): GatedMlp => ({
    kind: 'gated',
    gate: linear(`${at}.gate_proj`, width, hidden),
    up: linear(`${at}.up_proj`, width, hidden),
    down: linear(`${at}.down_proj`, hidden, width),
    activation,
  });
  const mixed = withExperts(config, entries, spec, {
    width: 1408,
    topK: 4,
    also: (mlp, at, dense) => ({
      ...mlp,
      shared: { mlp: shared(`${at}.shared_expert`, dense), gate: kept(linear(`${at}.shared_expert_gate`, 1, hidden)) },
    }),
  });
  if (!readBoolean(config, 'use_sliding_window', false)) return mixed;
  const most = readInteger(config, 'max_window_layers', { min: 0, max: SIZE.max }, 28);
  return withWindows(mixed, readWindows(config, spec.layers.length, { slides: (layer) => layer % 2 === 0 && layer < most, window: 4096 }));
}

/** What config.json of a Qwen3-MoE says, as a decoder. Throws as `llamaSpec`. */
function qwen3MoeSpec(config: JsonObject, entries: Entries): DecoderSpec {
  const spec = llamaSpec(config, entries, { positions: 2 ** 15, biases: { mlp: false } });
  const window = readBoolean(config, 'use_sliding_window', false)
    ? readOptionalInteger(config, 'sliding_window', POSITIONS, 4096)
    : undefined;
  const normed = mapAttention(mapAttention(spec, headNorms(config)), () => (window === undefined ? {} : { window }));
  return withExperts(config, entries, normed, { width: 768, topK: 8 });
}

/** Qwen1.5-MoE and Qwen2-MoE: `model_type` "qwen2_moe". */
export const qwen2Moe: ModelAdapter = decoderAdapter({ modelTypes: ['qwen2_moe'], spec: qwen2MoeSpec });

/** Qwen3-MoE: `model_type` "qwen3_moe". */
export const qwen3Moe: ModelAdapter = decoderAdapter({ modelTypes: ['qwen3_moe'], spec: qwen3MoeSpec });
