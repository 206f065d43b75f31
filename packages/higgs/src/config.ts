// `quantization_config` of HIGGS checkpoints as a quantizer: the options of transformers' HiggsConfig, under its names or in camel case.

import { isPlainRecord, type JsonObject, type LowbitError, type Quantizer, type Rule } from '@lowbit/core';
import type { HiggsBits, HiggsDim } from './grid.ts';
import { higgs } from './higgs.ts';
import { CONFIG_DEFAULTS } from './options.ts';
import { isNames, refusal, shown } from './refuse.ts';
import { checkEntries, type SkipOptions, skipRules } from './skip.ts';

/** The fields of a `HiggsConfig` in camel case; `higgsConfig` takes those of Python, too. */
export interface HiggsConfigOptions {
  /** Default 4. */
  readonly bits?: HiggsBits;
  /** Default 2. */
  readonly p?: HiggsDim;
  /** 64, 128 or 256 (default): those that transformers has kernels for. `higgs` takes others. */
  readonly groupSize?: 64 | 128 | 256;
  /** A power of two, at least the group; default 512. */
  readonly hadamardSize?: number;
  /** Modules to leave as they are; it takes the place of the default. Default null: the output embedding and tied weights. */
  readonly modulesToNotConvert?: readonly string[] | null;
  /** How the files that the record comes from were packed, by module. Checked to be that, and without effect: what is written has metadata of its own. */
  readonly tuneMetadata?: JsonObject;
}

/** What a `HiggsConfig` of Python means here. */
export interface HiggsConfig {
  readonly quantizer: Quantizer;
  /** `modules_to_not_convert` as given. */
  readonly modulesToNotConvert: readonly string[] | null;
  /**
   * Rules that quantize the linears at `paths` but for those that transformers skips. For `quantizeCheckpoint` and `patchLinears`.
   * @throws ERR_BAD_ARGUMENT for unusable paths or options
   */
  rules(paths: Iterable<string>, options?: SkipOptions): Rule[];
}

type Field = keyof typeof CONFIG_DEFAULTS;

const CAMEL: Readonly<Record<keyof HiggsConfigOptions, Field>> = {
  bits: 'bits',
  p: 'p',
  groupSize: 'group_size',
  hadamardSize: 'hadamard_size',
  modulesToNotConvert: 'modules_to_not_convert',
  tuneMetadata: 'tune_metadata',
};

const CALL = 'higgsConfig';

/**
 * A quantizer from the fields of a `quantization_config`, which may be that of a config.json, or from the same in camel case.
 * @throws ERR_BAD_ARGUMENT for an unknown field, one given twice, a value of the wrong type or out of range, or an entry that is no module name
 *
 * @example
 * const { quantizer, rules } = higgsConfig({ bits: 4, modulesToNotConvert: ['lm_head', 'model.layers.0'] });
 * const paths = llama.linears(source.config, source.source.entries).map(({ path }) => path);
 * await quantizeCheckpoint(source, { out, quantizer, rules: rules(paths), adapters: [llama] });
 */
export function higgsConfig(options: HiggsConfigOptions | JsonObject = {}): HiggsConfig {
  const config = fields(options);
  const { bits, p, group_size, hadamard_size, modules_to_not_convert: skipped, tune_metadata } = config;
  if (group_size !== 64 && group_size !== 128 && group_size !== 256) {
    throw wrong('group_size', group_size, 'transformers takes 64, 128 and 256; higgs({ groupSize }) makes others for lowbit alone.');
  }
  if (skipped !== null && !isNames(skipped)) {
    throw wrong('modules_to_not_convert', skipped, 'Use a list of module names, or null for the default.');
  }
  checkEntries(skipped ?? []);
  const metadata = tune_metadata ?? {}; // transformers writes null for none, too
  if (!isPlainRecord(metadata) || !Object.values(metadata).every(isPlainRecord)) {
    throw wrong('tune_metadata', tune_metadata, 'It is an object with one record for each module, or {}.');
  }
  const made = higgs({
    ...{ bits: bits as HiggsBits, p: p as HiggsDim },
    ...{ groupSize: group_size, hadamardSize: hadamard_size as number },
  });
  const list = skipped as readonly string[] | null;
  const record = { ...made.config, modules_to_not_convert: list };
  const quantizer: Quantizer = { ...made, config: record, identity: JSON.stringify([made.identity, record]) };
  return { quantizer, modulesToNotConvert: list, rules: (paths, given) => skipRules(paths, quantizer, list, given) };
}

/** All fields under their names in JSON, defaults filled in; undefined is the default. */
function fields(options: HiggsConfigOptions | JsonObject): Readonly<Record<Field, JsonObject[string]>> {
  const hint = `Its fields are ${Object.keys(CONFIG_DEFAULTS).join(', ')}, or the same in camelCase.`;
  if (!isPlainRecord(options)) throw refusal(CALL, 'the configuration must be an object', hint, {});
  const config: Record<Field, JsonObject[string]> = { ...CONFIG_DEFAULTS };
  const given = new Set<Field>();
  for (const [name, value] of Object.entries(options)) {
    const field = Object.hasOwn(CAMEL, name) ? CAMEL[name as keyof HiggsConfigOptions] : (name as Field);
    if (!Object.hasOwn(CONFIG_DEFAULTS, field)) throw refusal(CALL, `there is no field ${name}`, hint, { field: name });
    if (given.has(field)) throw refusal(CALL, `${field} is given twice`, 'Give it under one name.', { field });
    given.add(field);
    if (value !== undefined) config[field] = value;
  }
  if (config.quant_method !== 'higgs') throw wrong('quant_method', config.quant_method, "It is 'higgs'.");
  return config;
}

function wrong(field: Field, value: unknown, hint: string): LowbitError {
  return refusal(CALL, `${field} cannot be ${shown(value)}`, hint, { field, value });
}
