// The `quantization_config` of the `hqq` layout, as transformers 4.x writes it, and who can read the result.
//
// transformers looks settings up by the last two components of a module's name, and skips a module if any string of `skip_modules` occurs in its
// name; vLLM skips a module if a string equals one component. Stored layers win over the block in transformers, so a block that cannot say
// everything (two settings for one tag) is an imprecision, not an error.

import type { JsonObject, PlannedLinear, Quantizer } from '@lowbit/core';
import { type HqqSettings, hqqSettings } from '@lowbit/core/layouts';

interface QuantizedSite {
  readonly path: string;
  readonly settings: HqqSettings;
}

interface Survey {
  readonly quantized: readonly QuantizedSite[];
  readonly kept: readonly string[];
  /** All layers have these settings; undefined if they differ. */
  readonly uniform: HqqSettings | undefined;
  /** Settings by the last two components of the name; the first layer of a tag decides. */
  readonly byTag: ReadonlyMap<string, HqqSettings>;
  /** Layers that differ from the entry of their tag. */
  readonly clashing: readonly string[];
  readonly skip: readonly string[];
  /** Kept linears that `skip` cannot name without naming a quantized one, too. */
  readonly unskippable: readonly string[];
}

/** Value of `quantization_config`: one block for all layers, or one per tag where they differ. */
export function hqqConfig(linears: readonly PlannedLinear[]): JsonObject {
  const { uniform, byTag, skip } = survey(linears);
  return {
    quant_config: uniform ? block(uniform) : Object.fromEntries([...byTag].map(([tag, settings]) => [tag, block(settings)])),
    quant_method: 'hqq',
    skip_modules: [...skip],
  };
}

/** Programs that load the result, a sentence each. */
export function hqqLoadsIn(linears: readonly PlannedLinear[]): readonly string[] {
  const facts = survey(linears);
  const sentences = [
    'lowbit, on every backend.',
    'Python: transformers 4.48 to 4.57 with hqq 0.2.1 or later. transformers 4.57 computes these layers in float32, so load with dtype=torch.float32; 4.51 needs a GPU.',
    'Not transformers 5: it loads such a folder without an error, but as randomly initialised layers.',
    vllm(facts),
  ];
  if (facts.clashing.length > 0) {
    sentences.push(
      `config.json holds one setting per layer name, and ${some(facts.clashing)} differ from it; lowbit and transformers go by the stored layers, which are right.`,
    );
  }
  if (facts.unskippable.length > 0) {
    sentences.push(
      `skip_modules cannot name ${some(facts.unskippable)} without skipping a quantized layer: transformers will not load this mix. Keep or quantize them together.`,
    );
  }
  return sentences;
}

function vllm({ uniform, kept, skip }: Survey): string {
  const reasons: string[] = [];
  if (uniform === undefined) reasons.push('it takes one setting for all layers');
  else if (uniform.nbits !== 4 || uniform.group_size !== 64 || uniform.axis !== 1)
    reasons.push('it takes 4 bits in groups of 64 along axis 1 alone');
  if (uniform?.view_as_float) reasons.push('it takes no float views');
  if (kept.some((path) => !path.split('.').some((component) => skip.includes(component)))) {
    reasons.push('it skips layers by single components of their names, and here some are kept in other ways');
  }
  return reasons.length === 0
    ? 'vLLM up to 0.14, on GPUs of compute capability 8.0 or later (later releases dropped hqq).'
    : `Not vLLM: ${reasons.join('; ')}.`;
}

function survey(linears: readonly PlannedLinear[]): Survey {
  const quantized: QuantizedSite[] = [];
  const kept: string[] = [];
  for (const { site, use } of linears) {
    if (use === 'keep') kept.push(site.path);
    else quantized.push({ path: site.path, settings: hqqSettings(use satisfies Quantizer) });
  }
  const byTag = new Map<string, HqqSettings>();
  const clashing: string[] = [];
  for (const { path, settings } of quantized) {
    const tag = lastTwo(path);
    const first = byTag.get(tag);
    if (first === undefined) byTag.set(tag, settings);
    else if (!same(first, settings)) clashing.push(path);
  }
  const first = quantized[0]?.settings;
  const uniform = first !== undefined && quantized.every(({ settings }) => same(settings, first)) ? first : undefined;
  const paths = quantized.map(({ path }) => path);
  const { skip, unskippable } = skipModules(linears, paths);
  return { quantized, kept, uniform, byTag, clashing: uniform ? [] : clashing, skip, unskippable };
}

/**
 * Strings that occur in the name of every kept linear and of no quantized one, `lm_head` first as Python has it. Short ones are tried first: they
 * cover whole families, and vLLM understands single components only.
 */
function skipModules(
  linears: readonly PlannedLinear[],
  quantized: readonly string[],
): { readonly skip: readonly string[]; readonly unskippable: readonly string[] } {
  const harmless = (text: string) => !quantized.some((path) => path.includes(text));
  const skip: string[] = harmless('lm_head') ? ['lm_head'] : [];
  const unskippable: string[] = [];
  for (const { site, use } of linears) {
    if (use !== 'keep' || skip.some((text) => site.path.includes(text))) continue;
    const components = site.path.split('.');
    const choice = [components.at(-1)!, lastTwo(site.path), site.tag, site.path].find((text) => site.path.includes(text) && harmless(text));
    if (choice === undefined) unskippable.push(site.path);
    else skip.push(choice);
  }
  return { skip, unskippable };
}

function block(settings: HqqSettings): JsonObject {
  return { offload_meta: false, scale_quant_params: null, weight_quant_params: { ...settings }, zero_quant_params: null };
}

function lastTwo(path: string): string {
  return path.split('.').slice(-2).join('.');
}

function same(a: HqqSettings, b: HqqSettings): boolean {
  return (Object.keys(a) as (keyof HqqSettings)[]).every((key) => a[key] === b[key]);
}

function some(paths: readonly string[]): string {
  return paths.length > 3 ? `${paths.slice(0, 3).join(', ')} and ${paths.length - 3} more` : paths.join(', ');
}
