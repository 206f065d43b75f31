// Qwen2 and Qwen2.5: Llama with biases on q, k and v, and a window in the upper layers if asked for. Qwen3: no biases, but norms of each head's queries and
// keys.

import type { Entries, JsonObject, ModelAdapter } from '@lowbit/core';
import { readBoolean, readInteger } from '../config.ts';
import { decoderAdapter } from '../decoder/adapter.ts';
import type { DecoderSpec } from '../decoder/spec.ts';
import { mapAttention, readWindows, withWindows } from './common.ts';
import { headNorms } from './head-norms.ts';
import { llamaSpec } from './llama.ts';

/** With `use_sliding_window` layers from max_window_layers on slide. */
function qwenWindows(config: JsonObject, layers: number): readonly (number | undefined)[] {
  if (!readBoolean(config, 'use_sliding_window', false)) return [];
  const full = readInteger(config, 'max_window_layers', { min: 0, max: 2 ** 20 }, 28);
  return readWindows(config, layers, { slides: (layer) => layer >= full, window: 4096 });
}

/** What config.json of a Qwen2 says, as a decoder. Throws as `llamaSpec`. */
export function qwen2Spec(config: JsonObject, entries: Entries): DecoderSpec {
  const spec = llamaSpec(config, entries, { positions: 2 ** 15, biases: { qkv: true, o: false, mlp: false } });
  return withWindows(spec, qwenWindows(config, spec.layers.length));
}

/** What config.json of a Qwen3 says, as a decoder. Throws as `llamaSpec`. */
function qwen3Spec(config: JsonObject, entries: Entries): DecoderSpec {
  const spec = llamaSpec(config, entries, { positions: 2 ** 15, headDim: 128, biases: { mlp: false } });
  return withWindows(mapAttention(spec, headNorms(config)), qwenWindows(config, spec.layers.length));
}

/** Qwen2 and Qwen2.5: `model_type` "qwen2". */
export const qwen2: ModelAdapter = decoderAdapter({ modelTypes: ['qwen2'], spec: qwen2Spec });

/** Qwen3: `model_type` "qwen3". */
export const qwen3: ModelAdapter = decoderAdapter({ modelTypes: ['qwen3'], spec: qwen3Spec });
