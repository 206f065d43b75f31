// Reading Python's configuration records: keys in snake_case or camelCase, checked, and the quantizer that they mean.

import { isLowbitError, isPlainRecord, LowbitError, type Quantizer } from '@lowbit/core';
import { hqq } from './hqq.ts';
import type { HqqOptions } from './options.ts';
import { valueText } from './solver-options.ts';

type Camel<S extends string> = S extends `${infer Head}_${infer Tail}` ? `${Head}${Capitalize<Camel<Tail>>}` : S;

/** A record whose keys are all optional and may be written as in Python or in camelCase. */
export type PythonKeys<T> = { readonly [K in keyof T]?: T[K] | undefined } & {
  readonly [K in keyof T as Camel<K & string>]?: T[K] | undefined;
};

/** A configuration as `quantizerOf` takes it: checked at run time. */
export type Configured = Readonly<Record<string, unknown>>;

/** What one linear's configuration says. */
export interface QuantizerConfig {
  readonly quantizer: Quantizer;
  /** Scales and zeros stay in host memory. */
  readonly offloadMeta: boolean;
}

const HELPER: ReadonlySet<string> = new Set(['nbits', 'group_size', 'quant_zero', 'quant_scale', 'offload_meta', 'view_as_float', 'axis']);
const PARAMS: ReadonlySet<string> = new Set(['nbits', 'channel_wise', 'group_size', 'optimize', 'round_zero', 'axis', 'view_as_float']);
const DICT: ReadonlySet<string> = new Set(['weight_quant_params', 'scale_quant_params', 'zero_quant_params', 'offload_meta']);

/** The record with its keys in Python's spelling, undefined ones left out. Throws ERR_BAD_ARGUMENT naming key and choices. */
export function record(options: unknown, known: ReadonlySet<string>, owner: string): Record<string, unknown> {
  const keys = `The keys are ${[...known].join(', ')}, or the same in camelCase.`;
  if (!isPlainRecord(options)) {
    const what = options instanceof Map ? 'a Map' : (JSON.stringify(options) ?? String(options));
    throw new LowbitError('ERR_BAD_ARGUMENT', `${owner}: a configuration must be an object, not ${what}`, { hint: keys });
  }
  const found: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(options)) {
    if (value === undefined) continue;
    const name = key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    const problem = !known.has(name) ? `there is no key ${key}` : Object.hasOwn(found, name) ? `${name} is given twice` : undefined;
    if (problem !== undefined) throw new LowbitError('ERR_BAD_ARGUMENT', `${owner}: ${problem}`, { hint: keys, details: { key } });
    found[name] = value;
  }
  return found;
}

/** The quantizer of the helper's arguments or of a whole dictionary. Throws ERR_BAD_ARGUMENT. */
export function quantizerOf(config: Configured, owner: string): QuantizerConfig {
  const isDict = typeof config === 'object' && config !== null && ('weight_quant_params' in config || 'weightQuantParams' in config);
  const { options, offloadMeta } = isDict ? fromDict(record(config, DICT, owner), owner) : fromHelper(record(config, HELPER, owner), owner);
  const quantizer = checked(options as HqqOptions, isDict ? `${owner}: weight_quant_params` : owner);
  return { quantizer: offloadMeta ? { ...quantizer, config: { ...quantizer.config, offload_meta: true } } : quantizer, offloadMeta };
}

/** Python's key of each option that a configuration sets. */
const KEYS: ReadonlyMap<unknown, string> = new Map<keyof HqqOptions, string>([
  ['bits', 'nbits'],
  ['groupSize', 'group_size'],
  ['axis', 'axis'],
  ['optimize', 'optimize'],
  ['roundZero', 'round_zero'],
  ['quantScale', 'quant_scale'],
  ['quantZero', 'quant_zero'],
  ['channelWise', 'channel_wise'],
  ['viewAsFloat', 'view_as_float'],
]);

/** `hqq`, whose refusals name the key that the caller wrote. */
function checked(options: HqqOptions, owner: string): Quantizer {
  try {
    return hqq(options);
  } catch (error) {
    const key = isLowbitError(error, 'ERR_BAD_ARGUMENT') ? KEYS.get(error.details.option) : undefined;
    if (key === undefined) throw error;
    const { hint, details } = error as LowbitError;
    throw new LowbitError('ERR_BAD_ARGUMENT', `${owner}: ${key} cannot be ${valueText(details.value)}`, {
      hint,
      details: { key, value: details.value },
      cause: error,
    });
  }
}

/** Options for `hqq`, unchecked: it does. */
interface Parsed {
  readonly options: Readonly<Record<keyof HqqOptions & string, unknown>> | Configured;
  readonly offloadMeta: boolean;
}

function fromHelper(given: Record<string, unknown>, owner: string): Parsed {
  const { nbits = 4, group_size = 64, axis = 1, view_as_float = false } = given;
  const zero = flag(given, 'quant_zero', owner);
  const scale = flag(given, 'quant_scale', owner);
  const offloadMeta = flag(given, 'offload_meta', owner);
  if (typeof group_size === 'number' && group_size % 8 !== 0) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `${owner}: group_size cannot be ${group_size}`, {
      hint: 'Python takes multiples of 8 here. hqq({ groupSize }) takes any size.',
      details: { key: 'group_size', value: group_size },
    });
  }
  const options = {
    ...{ bits: nbits, groupSize: group_size, axis, viewAsFloat: view_as_float },
    quantZero: zero && (offloadMeta ? 'groups' : true),
    quantScale: offloadMeta ? zero : scale,
  };
  return { options, offloadMeta };
}

function fromDict(given: Record<string, unknown>, owner: string): Parsed {
  const weight = record(given.weight_quant_params, PARAMS, `${owner}: weight_quant_params`);
  const { nbits = 4, channel_wise = true, group_size = 64, optimize = true, round_zero = false, axis = 0, view_as_float = false } = weight;
  const zero = metaParams(given, 'zero_quant_params', owner);
  const scale = metaParams(given, 'scale_quant_params', owner);
  if (scale === 'whole') throw unmade(owner, 'scale_quant_params');
  const options = {
    ...{ bits: nbits, groupSize: group_size, axis, viewAsFloat: view_as_float },
    ...{ channelWise: channel_wise, optimize, roundZero: round_zero },
    quantZero: zero === 'groups' ? 'groups' : zero === 'whole',
    quantScale: scale === 'groups',
  };
  return { options, offloadMeta: flag(given, 'offload_meta', owner) };
}

/** How the library quantizes scales or zeros: on one grid, in groups of 128, or not. Throws ERR_BAD_ARGUMENT for what it never makes. */
function metaParams(given: Record<string, unknown>, key: string, owner: string): 'none' | 'whole' | 'groups' {
  if (given[key] === undefined || given[key] === null) return 'none';
  const { nbits, channel_wise = true, group_size = 64, optimize, ...rest } = record(given[key], PARAMS, `${owner}: ${key}`);
  const isPlain = nbits === 8 && optimize === false && Object.keys(rest).length === 0;
  if (isPlain && channel_wise === false) return 'whole';
  if (isPlain && channel_wise === true && group_size === 128) return 'groups';
  throw unmade(owner, key);
}

function unmade(owner: string, key: string): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', `${owner}: hqq never makes such ${key}`, {
    hint: 'It has 8 bits without the solver: channel_wise with group_size 128, or for zeros channel_wise false.',
    details: { key },
  });
}

function flag(given: Record<string, unknown>, key: string, owner: string): boolean {
  const value = given[key] ?? false;
  if (typeof value === 'boolean') return value;
  throw new LowbitError('ERR_BAD_ARGUMENT', `${owner}: ${key} cannot be ${String(value)}`, {
    hint: 'Use true or false.',
    details: { key },
  });
}
