// Mistral: Llama with a sliding window in all layers.

import type { Entries, JsonObject, ModelAdapter } from '@lowbit/core';
import { readOptionalInteger } from '../config.ts';
import { decoderAdapter } from '../decoder/adapter.ts';
import type { DecoderSpec } from '../decoder/spec.ts';
import { mapAttention, POSITIONS } from './common.ts';
import { llamaSpec } from './llama.ts';

/** What config.json of a Mistral says, as a decoder. Throws as `llamaSpec`. */
export function mistralSpec(config: JsonObject, entries: Entries): DecoderSpec {
  const window = readOptionalInteger(config, 'sliding_window', POSITIONS, 4096);
  const spec = llamaSpec(config, entries, { positions: 2 ** 17, biases: { qkv: false, o: false, mlp: false } });
  return mapAttention(spec, () => (window === undefined ? {} : { window }));
}

/** Mistral: `model_type` "mistral". */
export const mistral: ModelAdapter = decoderAdapter({ modelTypes: ['mistral'], spec: mistralSpec });
