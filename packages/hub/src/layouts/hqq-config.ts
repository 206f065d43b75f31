// The `quantization_config` of the hqq layouts: what transformers 4.x writes, and the versions and variants of it that config.json files have.

import type { Entries, JsonObject, PlannedLinear } from '@lowbit/core';
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

/** Where a layer of safetensors files says that it is encoded; modules of pickles do not. */
const ENCODED = '.encoded_state_dict';

/** What a checkpoint is: `block` has a config of hqq, `encoded` only tensors as in safetensors, `pickled` only those of a qmodel.pt. */
export type HqqEvidence = 'block' | 'encoded' | 'pickled';

/** What says that a checkpoint is of hqq: config.json, or the tensors where that says nothing. Undefined if it is not. */
export function hqqEvidence(config: JsonObject, entries: Entries): HqqEvidence | undefined {
  const block = config.quantization_config;
  if (block !== undefined && block !== null) return isHqqBlock(block) ? 'block' : undefined;
  for (const name of entries.keys()) {
    if (name.endsWith('.W_q')) return entries.has(`${name.slice(0, -'.W_q'.length)}${ENCODED}`) ? 'encoded' : 'pickled';
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
