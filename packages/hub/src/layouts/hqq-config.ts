// The `quantization_config` of the hqq layouts: what transformers 4.x writes, and the versions and variants of it that config.json files have.

import type { Entries, JsonObject, PlannedLinear } from '@lowbit/core';
import { NESTED_VERSION_KEY } from '@lowbit/layouts';
import { survey } from './hqq-survey.ts';

/** Value of `quantization_config`: one block for all layers, or one per tag where they differ. */
export function hqqConfig(linears: readonly PlannedLinear[]): JsonObject {
  const { uniform, byTag, skip } = survey(linears);
  return {
    quant_config: uniform ? uniform.block : Object.fromEntries([...byTag].map(([tag, { block }]) => [tag, block])),
    quant_method: 'hqq',
    skip_modules: [...skip],
  };
}

/** `quant_method` of transformers and vLLM, and of the vLLM plug-ins that the Python library brings. */
const METHODS: ReadonlySet<unknown> = new Set(['hqq', 'hqq_marlin', 'hqq_torch', 'hqq_gemlite']);

/** `quantization_config` of the layout `hqq-nested`. No Python program knows the method, so none mistakes it for something it can load. */
export function nestedHqqConfig(linears: readonly PlannedLinear[]): JsonObject {
  return { ...hqqConfig(linears), quant_method: 'lowbit', layout: HQQ_NESTED };
}

export const HQQ_NESTED = 'hqq-nested';

/** Where a layer of safetensors files says that it is encoded; modules of pickles do not. */
const ENCODED_KEY = 'encoded_state_dict';

/** What a checkpoint shows: a config `block` of hqq; without a block layers `encoded` as in safetensors, or as `pickled` in qmodel.pt; `nested` ones. */
export type HqqEvidence = 'block' | 'encoded' | 'pickled' | 'nested';

/** What says that a checkpoint is of hqq: config.json, or the tensors where that says nothing. Undefined if it is not. */
export function hqqEvidence(config: JsonObject, entries: Entries): HqqEvidence | undefined {
  const block = config.quantization_config;
  if (block !== undefined && block !== null) {
    if (isRecord(block) && block.quant_method === 'lowbit' && block.layout === HQQ_NESTED) return 'nested';
    return isHqqBlock(block) ? 'block' : undefined;
  }
  for (const name of entries.keys()) {
    if (!name.endsWith('.W_q')) continue;
    const path = name.slice(0, -'W_q'.length);
    if (entries.has(`${path}${NESTED_VERSION_KEY}`)) return 'nested';
    return entries.has(`${path}${ENCODED_KEY}`) ? 'encoded' : 'pickled';
  }
  return undefined;
}

/**
 * True for a block of any version. The first that transformers had (before its pull request 33141) has no `quant_method`: the settings, or those of
 * each tag, stand directly in it. That version quantized while loading, with other defaults (axis 0, quantized zeros); nothing of a layer is ever
 * taken from a block, so they do not matter here.
 */
function isHqqBlock(block: JsonObject[string]): boolean {
  if (!isRecord(block)) return false;
  if (block.quant_method !== undefined) return METHODS.has(block.quant_method);
  const values = Object.values(block);
  return hasSettings(block) || hasSettings(block.quant_config) || (values.length > 0 && values.every(hasSettings));
}

function hasSettings(value: JsonObject[string] | undefined): boolean {
  return isRecord(value) && isRecord(value.weight_quant_params);
}

function isRecord(value: JsonObject[string] | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
