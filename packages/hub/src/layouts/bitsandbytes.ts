// The layout `bitsandbytes` of the Hugging Face world: NF4, FP4 and LLM.int8 weights as transformers saves them for a BitsAndBytesConfig.

import type { CheckpointLayout, Entries, JsonObject } from '@lowbit/core';
import { hasBitsAndBytes } from '@lowbit/layouts';
import { bitsAndBytesConfig, bitsAndBytesLoadsIn } from './bitsandbytes-config.ts';
import { readBitsAndBytes } from './bitsandbytes-read.ts';
import { acceptsBitsAndBytes, bitsAndBytesTensors } from './bitsandbytes-write.ts';

/** Reads what bitsandbytes 0.41.3 and later (4-bit) and 0.38 and later (8-bit) write, and writes it as transformers 5 does. */
export const bitsAndBytesLayout: CheckpointLayout = {
  spec: 1,
  name: 'bitsandbytes',
  detect,
  read: readBitsAndBytes,
  accepts: acceptsBitsAndBytes,
  tensors: bitsAndBytesTensors,
  config: bitsAndBytesConfig,
  loadsIn: bitsAndBytesLoadsIn,
};

/** By the config, in old files without a method by its flags, and without a block by the tensors. */
function detect({ quantization_config: block }: JsonObject, entries: Entries): boolean {
  if (block === undefined || block === null) return hasBitsAndBytes(entries);
  if (typeof block !== 'object' || Array.isArray(block)) return false;
  const { quant_method: method, load_in_4bit, load_in_8bit } = block as JsonObject;
  return method === undefined ? load_in_4bit === true || load_in_8bit === true : method === 'bitsandbytes';
}
