// Reading checkpoints of the `bitsandbytes` layout: the tensors say everything but the threshold of LLM.int8.

import { type JsonObject, LowbitError, type StoredLinear, type TensorSource } from '@lowbit/core';
import { readBitsAndBytesLinears } from '@lowbit/layouts';

/** transformers' default. */
const DEFAULT_THRESHOLD = 6;

/** Every quantized parameter by module path. Throws as `readBitsAndBytesLinears`, and ERR_BAD_CHECKPOINT for a threshold that is none. */
export async function readBitsAndBytes(
  config: JsonObject,
  source: TensorSource,
  { signal, allowNonFinite }: { readonly signal?: AbortSignal | undefined; readonly allowNonFinite?: boolean | undefined } = {},
): Promise<ReadonlyMap<string, StoredLinear>> {
  return readBitsAndBytesLinears(source, { threshold: thresholdOf(config), signal, allowNonFinite });
}

function thresholdOf({ quantization_config: block }: JsonObject): number {
  const stated = typeof block === 'object' && block !== null && 'llm_int8_threshold' in block ? block.llm_int8_threshold : undefined;
  if (stated === undefined || stated === null) return DEFAULT_THRESHOLD;
  if (typeof stated === 'number' && stated >= 0 && stated < Number.POSITIVE_INFINITY) return stated;
  throw new LowbitError('ERR_BAD_CHECKPOINT', `config.json says llm_int8_threshold ${JSON.stringify(stated)}, not a number of at least 0`, {
    hint: 'The usual one is 6.0.',
    details: { field: 'llm_int8_threshold', value: stated },
  });
}
