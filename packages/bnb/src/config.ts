// `quantization_config` of bitsandbytes checkpoints as a quantizer: the options of transformers' BitsAndBytesConfig, under its names or in camel case.

import { type JsonObject, LowbitError, type Quantizer, type Rule } from '@lowbit/core';
import { fp4, nf4 } from './four-bit.ts';
import { int8 } from './int8.ts';
import { type OffloadOptions, offloadedLinears } from './offload.ts';
import { CONFIG_DEFAULTS, type ComputeDtype, type QuantStorage, STORAGES, TORCH_NAMES } from './options.ts';
import { isNames, refusal, shown } from './refuse.ts';
import { checkSkipOptions, type SkipOptions, skipRules } from './skip.ts';

/** The fields of a `BitsAndBytesConfig` in camel case; `bitsAndBytesConfig` takes those of Python, too. */
export interface BitsAndBytesOptions {
  /** NF4 or FP4. Exactly one of `loadIn4bit` and `loadIn8bit` must be true. */
  readonly loadIn4bit?: boolean;
  /** LLM.int8. */
  readonly loadIn8bit?: boolean;
  /** Default fp4, as in Python; nf4 is the better one. */
  readonly bnb4bitQuantType?: 'nf4' | 'fp4';
  readonly bnb4bitUseDoubleQuant?: boolean;
  /** Default float32, as in Python. */
  readonly bnb4bitComputeDtype?: 'float32' | 'float16' | 'bfloat16';
  /** What the bytes of codes are stored as; it changes none of them. Default uint8, which every reader takes. */
  readonly bnb4bitQuantStorage?: QuantStorage;
  /** Default 6. */
  readonly llmInt8Threshold?: number;
  /** Modules to leave as they are, of 4-bit models, too; it replaces the default list. Default null: the output embedding and tied weights. */
  readonly llmInt8SkipModules?: readonly string[] | null;
  /** Linears that the device map given to `rules` offloads stay as they are. Default false: they are quantized, too. */
  readonly llmInt8EnableFp32CpuOffload?: boolean;
  /** Only false: with true Python keeps float weights, and there is nothing to quantize. */
  readonly llmInt8HasFp16Weight?: boolean;
}

/** Of `BitsAndBytes.rules`. */
export interface RulesOptions extends SkipOptions, OffloadOptions {}

/** What a `BitsAndBytesConfig` of Python means here. */
export interface BitsAndBytes {
  /** Its config record is the whole `quantization_config`. */
  readonly quantizer: Quantizer;
  /** `llm_int8_skip_modules` as given. */
  readonly skipModules: readonly string[] | null;
  /**
   * Rules that quantize the linears at `paths` but for those that transformers skips and, with `llmInt8EnableFp32CpuOffload`, those that the device
   * map offloads. For `quantizeCheckpoint` and `patchLinears`.
   * @throws ERR_BAD_ARGUMENT for unusable paths or options, an entry of the list that is no module name, or a path that the device map does not place
   */
  rules(paths: Iterable<string>, options?: RulesOptions): Rule[];
}

type Field = keyof typeof CONFIG_DEFAULTS;

const CAMEL: Readonly<Record<keyof BitsAndBytesOptions, Field>> = {
  loadIn4bit: 'load_in_4bit',
  loadIn8bit: 'load_in_8bit',
  bnb4bitQuantType: 'bnb_4bit_quant_type',
  bnb4bitUseDoubleQuant: 'bnb_4bit_use_double_quant',
  bnb4bitComputeDtype: 'bnb_4bit_compute_dtype',
  bnb4bitQuantStorage: 'bnb_4bit_quant_storage',
  llmInt8Threshold: 'llm_int8_threshold',
  llmInt8SkipModules: 'llm_int8_skip_modules',
  llmInt8EnableFp32CpuOffload: 'llm_int8_enable_fp32_cpu_offload',
  llmInt8HasFp16Weight: 'llm_int8_has_fp16_weight',
};

/** Copies of the flags that transformers writes and does not read. */
const COPIES = new Set(['_load_in_4bit', '_load_in_8bit']);

/**
 * A quantizer from the fields of a `quantization_config`, which may be that of a config.json, or from the same in camel case.
 * @throws ERR_BAD_ARGUMENT for an unknown field, one given twice, a value of the wrong type, both load flags or none; ERR_UNSUPPORTED_FORMAT for
 * `llm_int8_has_fp16_weight`
 *
 * @example
 * const { quantizer, rules } = bitsAndBytesConfig({ loadIn4bit: true, bnb4bitQuantType: 'nf4', bnb4bitUseDoubleQuant: true });
 * const paths = llama.linears(source.config, source.source.entries).map(({ path }) => path);
 * await quantizeCheckpoint(source, { out, quantizer, rules: rules(paths), adapters: [llama] });
 */
export function bitsAndBytesConfig(options: BitsAndBytesOptions | JsonObject): BitsAndBytes {
  const config = fields(options);
  const [four, eight] = [flag(config, 'load_in_4bit'), flag(config, 'load_in_8bit')];
  if (four === eight) {
    throw refusal(CALL, `load_in_4bit and load_in_8bit are both ${four}`, 'Set exactly one of them.', {
      load_in_4bit: four,
      load_in_8bit: eight,
    });
  }
  const doubleQuant = flag(config, 'bnb_4bit_use_double_quant');
  const keepsOffloaded = flag(config, 'llm_int8_enable_fp32_cpu_offload');
  if (flag(config, 'llm_int8_has_fp16_weight')) {
    throw unsupported('llm_int8_has_fp16_weight keeps float weights', 'Leave it out: int8 weights are what a checkpoint stores.');
  }
  const type = oneOf(config, 'bnb_4bit_quant_type', ['fp4', 'nf4']);
  oneOf(config, 'bnb_4bit_quant_storage', STORAGES);
  const dtypes = Object.entries(TORCH_NAMES) as [ComputeDtype, string][];
  const torchName = oneOf(
    config,
    'bnb_4bit_compute_dtype',
    dtypes.map(([, name]) => name),
  );
  const computeDtype = dtypes.find(([, name]) => name === torchName)![0];
  const threshold = config.llm_int8_threshold;
  if (typeof threshold !== 'number' || !(threshold >= 0 && threshold < Number.POSITIVE_INFINITY)) {
    throw wrong('llm_int8_threshold', threshold, 'Use a number from 0; 6 is the usual one.');
  }
  const skipModules = config.llm_int8_skip_modules;
  if (skipModules !== null && !isNames(skipModules)) {
    throw wrong('llm_int8_skip_modules', skipModules, 'Use a list of module names, or null for the default.');
  }
  const made = eight ? int8({ threshold }) : (type === 'nf4' ? nf4 : fp4)({ doubleQuant, computeDtype });
  const quantizer: Quantizer = { ...made, config, identity: JSON.stringify([made.identity, config]) };
  const list = skipModules as readonly string[] | null;
  const rules = (paths: Iterable<string>, options: RulesOptions = {}): Rule[] => {
    checkSkipOptions('rules', options, ['deviceMap', 'offload']);
    const { deviceMap, offload, ...skipOptions } = options;
    const all = checkedPaths(paths);
    const offloaded = offloadedLinears(all, { deviceMap, offload });
    const skips = skipRules(all, quantizer, list, skipOptions);
    return keepsOffloaded && offloaded.length > 0 ? [...skips, { match: offloaded, use: 'keep' }] : skips;
  };
  return { quantizer, skipModules: list, rules };
}

const CALL = 'bitsAndBytesConfig';

/** A path by itself is refused, too: its letters are an iterable of strings. */
function checkedPaths(paths: unknown): readonly string[] {
  const all: unknown =
    typeof paths === 'object' && paths !== null && Symbol.iterator in paths ? [...(paths as Iterable<unknown>)] : undefined;
  if (isNames(all)) return all;
  throw refusal(
    'rules',
    `paths cannot be ${shown(all ?? paths)}`,
    'Pass the paths of all linears: adapter.linears(...).map(({ path }) => path).',
    {},
  );
}

/** All fields under their names in JSON, defaults filled in; undefined is the default. */
function fields(options: BitsAndBytesOptions | JsonObject): Readonly<Record<Field, JsonObject[string]>> {
  const known = [...Object.keys(CAMEL), ...Object.keys(CONFIG_DEFAULTS)];
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw refusal(CALL, 'the configuration must be an object', `Its fields are ${known.join(', ')}.`, {});
  }
  const config: Record<Field, JsonObject[string]> = { ...CONFIG_DEFAULTS };
  const given = new Set<Field>();
  for (const [name, value] of Object.entries(options)) {
    if (COPIES.has(name)) continue;
    const field = Object.hasOwn(CAMEL, name) ? CAMEL[name as keyof BitsAndBytesOptions] : (name as Field);
    if (!Object.hasOwn(CONFIG_DEFAULTS, field)) {
      throw refusal(CALL, `there is no field ${name}`, `The fields are ${known.join(', ')}.`, { field: name });
    }
    if (given.has(field)) throw refusal(CALL, `${field} is given twice`, 'Give it under one name.', { field });
    given.add(field);
    if (value !== undefined) config[field] = value;
  }
  if (config.quant_method !== 'bitsandbytes') throw wrong('quant_method', config.quant_method, "It is 'bitsandbytes'.");
  return config;
}

function flag(config: Readonly<Record<Field, JsonObject[string]>>, field: Field): boolean {
  const value = config[field];
  if (typeof value !== 'boolean') throw wrong(field, value, 'Use true or false.');
  return value;
}

function oneOf(config: Readonly<Record<Field, JsonObject[string]>>, field: Field, allowed: readonly string[]): string {
  const value = config[field];
  if (typeof value !== 'string' || !allowed.includes(value)) throw wrong(field, value, `Use ${allowed.join(', ')}.`);
  return value;
}

function wrong(field: Field, value: JsonObject[string], hint: string): LowbitError {
  return refusal(CALL, `${field} cannot be ${JSON.stringify(value)}`, hint, { field, value });
}

function unsupported(what: string, hint: string): LowbitError {
  return new LowbitError('ERR_UNSUPPORTED_FORMAT', `${CALL}: ${what}`, { hint });
}
