// Granite: Llama with factors of embeddings, scores, both residual branches and logits.

import type { Entries, JsonObject, ModelAdapter } from '@lowbit/core';
import { readNumber } from '../config.ts';
import { decoderAdapter } from '../decoder/adapter.ts';
import type { DecoderSpec } from '../decoder/spec.ts';
import { FACTOR, mapAttention, mapLayers } from './common.ts';
import { llamaSpec } from './llama.ts';

/** What config.json of a Granite says, as a decoder. Throws as `llamaSpec`. */
function graniteSpec(config: JsonObject, entries: Entries): DecoderSpec {
  const factor = (key: string): number => readNumber(config, key, FACTOR, 1);
  const scale = factor('attention_multiplier');
  const residualFactor = factor('residual_multiplier');
  const spec = llamaSpec(config, entries);
  return {
    ...mapLayers(
      mapAttention(spec, () => ({ scale })),
      (layer) => ({ ...layer, residualFactor }),
    ),
    embedding: { ...spec.embedding, scale: factor('embedding_multiplier') },
    output: { ...spec.output, factor: 1 / factor('logits_scaling') },
  };
}

/** Granite 3: `model_type` "granite". */
export const granite: ModelAdapter = decoderAdapter({ modelTypes: ['granite'], spec: graniteSpec });
