// What a plan makes of a model's linears, as config blocks can say it.
//
// transformers looks settings up by the last two components of a module's name, and skips a module if any string of `skip_modules` occurs in its
// name; vLLM skips a module if a string equals one component. Stored layers win over the block in transformers, so a block that cannot say
// everything (two settings for one tag) is an imprecision, not an error.

import type { Affine, Format, JsonObject, LinearSite, PlannedLinear } from '@lowbit/core';
import { type HqqSettings, hqqSettings } from '@lowbit/layouts';

/** A quantized linear, and its entry of a config block. */
export interface SurveyedLinear {
  readonly site: LinearSite;
  readonly settings: HqqSettings;
  /** The full record that the Python library calls a quant_config. */
  readonly block: JsonObject;
}

export interface Survey {
  readonly quantized: readonly SurveyedLinear[];
  readonly kept: readonly LinearSite[];
  /** The first of the quantized linears if all have its settings; undefined if they differ. */
  readonly uniform: SurveyedLinear | undefined;
  /** By the last two components of the name; the first layer of a tag decides. */
  readonly byTag: ReadonlyMap<string, SurveyedLinear>;
  /** Layers that differ from the entry of their tag. */
  readonly clashing: readonly string[];
  readonly skip: readonly string[];
  /** Kept linears that `skip` cannot name without naming a quantized one, too. */
  readonly unskippable: readonly string[];
}

/** Sorts the linears of a plan. Throws ERR_BAD_ARGUMENT for a quantizer without the settings of hqq. */
export function survey(linears: readonly PlannedLinear[]): Survey {
  const quantized: SurveyedLinear[] = [];
  const kept: LinearSite[] = [];
  for (const { site, use, format } of linears) {
    if (use === 'keep') {
      kept.push(site);
      continue;
    }
    const settings = hqqSettings(use);
    quantized.push({ site, settings, block: blockOf(settings, format) });
  }
  const byTag = new Map<string, SurveyedLinear>();
  const clashing: string[] = [];
  for (const linear of quantized) {
    const { path } = linear.site;
    const first = byTag.get(lastTwo(path));
    if (first === undefined) byTag.set(lastTwo(path), linear);
    else if (!same(first, linear)) clashing.push(path);
  }
  const first = quantized[0];
  const uniform = first !== undefined && quantized.every((linear) => same(linear, first)) ? first : undefined;
  const paths = quantized.map(({ site }) => site.path);
  const { skip, unskippable } = skipModules(linears, paths);
  return { quantized, kept, uniform, byTag, clashing: uniform ? [] : clashing, skip, unskippable };
}

/**
 * Strings that occur in the name of every kept linear and of no quantized one, `lm_head` first as Python has it. Short ones are tried first: they
 * cover whole families, and vLLM understands single components only.
 */
function skipModules(linears: readonly PlannedLinear[], quantized: readonly string[]): Pick<Survey, 'skip' | 'unskippable'> {
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

/** Keys in the order of transformers' files, which are sorted. */
function blockOf(settings: HqqSettings, { scale, zero }: Partial<Pick<Affine, 'scale' | 'zero'>> & Format): JsonObject {
  return {
    offload_meta: false,
    scale_quant_params: metaBlock(scale),
    weight_quant_params: { ...settings },
    zero_quant_params: metaBlock(zero),
  };
}

/** The settings of quantized scales or zeros under the library's names (hqq <= 0.1.8); null for plain ones. */
function metaBlock(stored: Affine['scale'] | Affine['zero'] | undefined): JsonObject | null {
  if (stored === undefined || typeof stored === 'string' || stored.kind !== 'affine') return null;
  const { levels, group } = stored;
  return { nbits: Math.log2(levels), channel_wise: group !== null, group_size: group, optimize: false };
}

function lastTwo(path: string): string {
  return path.split('.').slice(-2).join('.');
}

function same(a: SurveyedLinear, b: SurveyedLinear): boolean {
  return JSON.stringify(a.block) === JSON.stringify(b.block);
}
