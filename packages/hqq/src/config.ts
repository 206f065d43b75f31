// Configurations in Python's words: `BaseQuantizeConfig` of hqq and `HqqConfig` of transformers, under their keys or the same in camelCase.

import { isPlainRecord, isQuantizer, LowbitError, type Quantizer, type Rule, type Treatment } from '@lowbit/core';
import { type Configured, type PythonKeys, quantizerOf, record } from './config-keys.ts';
import type { HqqBits } from './options.ts';

/** Arguments of Python's `BaseQuantizeConfig`. */
export type BaseQuantizeOptions = PythonKeys<{
  /** Default 4. */
  nbits: HqqBits;
  /** A multiple of 8, or null for whole rows or columns. Default 64. */
  group_size: number | null;
  /** Store zeros as 8-bit codes, as hqq did until 0.2.1: on one grid for the layer, with `offload_meta` in groups of 128. Default false. */
  quant_zero: boolean;
  /** Store scales as 8-bit codes in groups of 128. Default false. */
  quant_scale: boolean;
  /** Keep scales and zeros in host memory (`HqqLinear` does). As in Python, `quant_scale` is then what `quant_zero` is. Default false. */
  offload_meta: boolean;
  /** Default false. */
  view_as_float: boolean;
  /** Default 1. */
  axis: 0 | 1;
}>;

/** Settings of one of the quantizers inside a configuration; what is left out has the default of `Quantizer.quantize`, not of the helper. */
export type QuantParams = PythonKeys<{
  /** Default 4. */
  nbits: HqqBits;
  /** Default true. */
  channel_wise: boolean;
  /** Default 64. */
  group_size: number | null;
  /** Default true. */
  optimize: boolean;
  /** Default false. */
  round_zero: boolean;
  /** Default 0: dictionaries of before April 2024 do not say it. */
  axis: 0 | 1;
  /** Default false. */
  view_as_float: boolean;
}>;

/** What `BaseQuantizeConfig` returns, and what config.json holds. */
export type QuantConfigDict = PythonKeys<{
  scale_quant_params: QuantParams | null;
  zero_quant_params: QuantParams | null;
  offload_meta: boolean;
}> &
  ({ readonly weight_quant_params: QuantParams } | { readonly weightQuantParams: QuantParams });

/** One linear's configuration: hqq's arguments, its dictionary, or a quantizer of one's own. */
export type LinearConfig = Quantizer | BaseQuantizeOptions | QuantConfigDict;

/**
 * The quantizer that `HQQLinear(..., BaseQuantizeConfig(...))` uses. Takes the arguments, or the dictionary that Python makes of them.
 *
 * @throws ERR_BAD_ARGUMENT for a key that it does not have (the hint lists them), one given in both spellings, or a value that hqq refuses
 *
 * @example
 * const q = await quantize(weight, baseQuantizeConfig({ nbits: 4, group_size: 64, axis: 1 }));
 */
export function baseQuantizeConfig(config: BaseQuantizeOptions | QuantConfigDict = {}): Quantizer {
  return quantizerOf(config, 'baseQuantizeConfig').quantizer;
}

/** Arguments of transformers' `HqqConfig`, or the block `quantization_config` of a config.json. */
export type HqqConfigOptions = PythonKeys<{
  /** Default 4. */
  nbits: HqqBits;
  /** Default 64. */
  group_size: number | null;
  /** Default false. */
  view_as_float: boolean;
  /** Default 1. */
  axis: 0 | 1;
  /** By tag, path or glob; null and what is not named stay as they are. Each entry has the defaults of `baseQuantizeConfig`. */
  dynamic_config: Readonly<Record<string, LinearConfig | null>> | null;
  /** Texts: a linear whose path contains one stays as it is. Default ['lm_head']. */
  skip_modules: readonly string[] | null;
  /** As config.json has it: a dictionary for all linears, or one per tag. */
  quant_config: QuantConfigDict | Readonly<Record<string, QuantConfigDict | null>> | null;
  quant_method: 'hqq';
}>;

/** What `quantizeCheckpoint` takes; `rules` alone is what `patchLinears` takes. */
export interface HqqConfig {
  /** `keep` where `dynamic_config` names what is quantized. */
  readonly quantizer: Treatment;
  readonly rules: readonly Rule[];
}

/**
 * What transformers' `HqqConfig(...)` quantizes. A key of `dynamic_config` or a text of `skip_modules` that names no linear of the model is an error
 * when the rules are used, `lm_head` apart, which models with tied embeddings do not have.
 *
 * @throws ERR_BAD_ARGUMENT as `baseQuantizeConfig`, and for settings beside `dynamic_config`, which Python would ignore
 *
 * @example
 * await quantizeCheckpoint(source, { out, adapters, ...hqqConfig({ nbits: 4, group_size: 64 }) });
 * await patchLinears(model, hqqConfig({ dynamic_config: { 'self_attn.v_proj': { nbits: 8 }, 'mlp.*': { nbits: 3 } } }).rules, { runtime });
 */
export function hqqConfig(options: HqqConfigOptions = {}): HqqConfig {
  const given = record(options, OPTIONS, OWNER);
  const { skip_modules = ['lm_head'], quant_method = 'hqq', dynamic_config: tags, quant_config: block, ...uniform } = given;
  const dynamic_config = tags ?? undefined; // None in Python
  const quant_config = block ?? undefined;
  if (quant_method !== 'hqq') throw bad(`quant_method is ${JSON.stringify(quant_method)}`, "It must be 'hqq'.");
  if ([dynamic_config, quant_config, Object.keys(uniform)[0]].filter((value) => value !== undefined).length > 1) {
    throw bad('settings for all linears beside settings of their own', 'Give nbits and the like, dynamic_config, or quant_config.');
  }
  const perTag = dynamic_config ?? (quant_config !== undefined && !isUniform(quant_config) ? quant_config : undefined);
  const { quantizer, rules } =
    perTag === undefined ? forAll(quantizerOf((quant_config ?? uniform) as Configured, OWNER).quantizer) : forEach(perTag);
  return { quantizer, rules: [...rules, ...skipRules(skip_modules)] };
}

const OWNER = 'hqqConfig';
const OPTIONS: ReadonlySet<string> = new Set([
  'nbits',
  'group_size',
  'view_as_float',
  'axis',
  'dynamic_config',
  'skip_modules',
  'quant_config',
  'quant_method',
]);

function isUniform(config: unknown): boolean {
  return typeof config === 'object' && config !== null && ('weight_quant_params' in config || 'weightQuantParams' in config);
}

function forAll(quantizer: Quantizer): HqqConfig {
  return { quantizer, rules: [{ match: '**', use: quantizer }] };
}

function forEach(perTag: unknown): HqqConfig {
  const entries = isPlainRecord(perTag) ? Object.entries(perTag) : [];
  if (entries.length === 0) throw bad('dynamic_config names no linear', "Use { 'self_attn.q_proj': { nbits: 4 } }.");
  const rules = entries.map(([match, config]): Rule => {
    if (config === null || config === 'keep') return { match, use: 'keep' };
    return { match, use: isQuantizer(config) ? config : quantizerOf(config as Configured, `${OWNER}: ${match}`).quantizer };
  });
  return { quantizer: 'keep', rules };
}

function skipRules(texts: unknown): readonly Rule[] {
  if (texts === null) return [];
  if (!Array.isArray(texts) || texts.some((text) => typeof text !== 'string' || text === '')) {
    throw bad(`skip_modules cannot be ${JSON.stringify(texts)}`, "Use an array of texts such as ['lm_head'].");
  }
  return texts.map((match: string) => ({ match, by: 'substring', ...(match === 'lm_head' ? { optional: true } : {}), use: 'keep' }));
}

function bad(problem: string, hint: string): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', `${OWNER}: ${problem}`, { hint });
}
