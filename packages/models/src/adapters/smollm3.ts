// SmolLM3: Llama of which every few layers have no rotary positions.

import type { Entries, JsonObject, ModelAdapter } from '@lowbit/core';
import { readBoolean, readInteger, readList } from '../config.ts';
import { decoderAdapter } from '../decoder/adapter.ts';
import type { DecoderSpec } from '../decoder/spec.ts';
import { COUNT, mapAttention, readWindows, withWindows } from './common.ts';
import { llamaSpec } from './llama.ts';

/** What config.json of a SmolLM3 says, as a decoder. Throws as `llamaSpec`. */
function smollm3Spec(config: JsonObject, entries: Entries): DecoderSpec {
  const spec = llamaSpec(config, entries, { positions: 2 ** 15, theta: 2e6, tied: true });
  const count = spec.layers.length;
  const interval = readInteger(config, 'no_rope_layer_interval', COUNT, 4);
  // Despite its name the list has 1 where a layer has rotary positions.
  const listed = readList(config, 'no_rope_layers', { length: count }, (list, key) => readInteger(list, key, { min: 0, max: 1 }));
  const turns = listed?.map((entry) => entry === 1) ?? Array.from({ length: count }, (_, layer) => (layer + 1) % interval !== 0);
  const turned = mapAttention(spec, (_, layer) => (turns[layer] ? {} : { position: { kind: 'none' } }));
  if (!readBoolean(config, 'use_sliding_window', false)) return turned;
  return withWindows(turned, readWindows(config, count, { slides: (layer) => !turns[layer], window: undefined }));
}

/** SmolLM3: `model_type` "smollm3". */
export const smollm3: ModelAdapter = decoderAdapter({ modelTypes: ['smollm3'], spec: smollm3Spec });
