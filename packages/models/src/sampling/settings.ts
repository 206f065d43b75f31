// Which sampling settings are in force: the caller's, else those of generation_config.json, else ours.

import { type JsonObject, LowbitError } from '@lowbit/core';
import { badConfig, given, readBoolean, readInteger, readingFile, readNumber } from '../config.ts';
import { NEUTRAL_SAMPLING, type SamplingSettings } from './process.ts';

/** Where neither the caller nor the checkpoint says otherwise. */
export const DEFAULT_TEMPERATURE = 0.7;

/** What a checkpoint's files say about generating. */
export interface GenerationDefaults {
  readonly sampling: SamplingSettings;
  /** Tokens that end a text. */
  readonly eosIds: readonly number[];
}

function tokenIds(config: JsonObject, key: string): number[] | undefined {
  const value = given(config, key);
  if (value === undefined) return undefined;
  const ids = Array.isArray(value) ? value : [value];
  const usable = ids.length <= 64 && ids.every((id) => typeof id === 'number' && Number.isInteger(id) && id >= 0);
  if (!usable) throw badConfig(key, value, 'a token id or a list of at most 64');
  return ids as number[];
}

/** top_k as Python users write "all tokens": 0, null or below 0. Absent it is `fallback`. */
function readTopK(generation: JsonObject, fallback: number): number {
  const value = generation.top_k;
  if (value === null || (typeof value === 'number' && value < 0)) return NEUTRAL_SAMPLING.topK;
  return readInteger(generation, 'top_k', { min: 0, max: 2 ** 31 }, fallback);
}

/**
 * Reads generation_config.json (`generation`, absent: {}) over config.json. With `do_sample: true` absent values are those of the Python library
 * (temperature 1, top_k 50); with `do_sample: false` the temperature is 0; without `do_sample` it is `temperature`, else 0.7, and nothing is cut off
 * that the file does not ask for. `null` is an absent value, but switches top_k off, as 0 and -1 do. Throws ERR_BAD_CHECKPOINT for unusable values.
 */
export function generationDefaults(generation: JsonObject, config: JsonObject): GenerationDefaults {
  const file = 'generation_config.json';
  return {
    sampling: readingFile(file, () => samplingDefaults(generation)),
    eosIds: readingFile(file, () => tokenIds(generation, 'eos_token_id')) ?? tokenIds(config, 'eos_token_id') ?? [],
  };
}

function samplingDefaults(generation: JsonObject): SamplingSettings {
  const sample = given(generation, 'do_sample') === undefined ? undefined : readBoolean(generation, 'do_sample', false);
  // Without sampling the file's temperature is not used, whatever it is.
  const temperature = sample === false ? 0 : readNumber(generation, 'temperature', { min: 0, max: 100 }, sample ? 1 : DEFAULT_TEMPERATURE);
  return {
    temperature,
    topK: readTopK(generation, sample ? 50 : NEUTRAL_SAMPLING.topK),
    topP: readNumber(generation, 'top_p', { min: 0, max: 1 }, NEUTRAL_SAMPLING.topP),
    minP: readNumber(generation, 'min_p', { min: 0, max: 1 }, NEUTRAL_SAMPLING.minP),
    typicalP: readNumber(generation, 'typical_p', { min: 0, max: 1 }, NEUTRAL_SAMPLING.typicalP),
    repetitionPenalty: readNumber(generation, 'repetition_penalty', { min: 1e-3, max: 1e3 }, NEUTRAL_SAMPLING.repetitionPenalty),
    // Not of transformers: no file says them.
    frequencyPenalty: NEUTRAL_SAMPLING.frequencyPenalty,
    presencePenalty: NEUTRAL_SAMPLING.presencePenalty,
  };
}

const RANGES: Readonly<Record<keyof SamplingSettings, { readonly min: number; readonly max: number; readonly whole?: true }>> = {
  temperature: { min: 0, max: 100 },
  topK: { min: 0, max: 2 ** 31, whole: true },
  topP: { min: 0, max: 1 },
  minP: { min: 0, max: 1 },
  typicalP: { min: 0, max: 1 },
  repetitionPenalty: { min: 1e-3, max: 1e3 },
  frequencyPenalty: { min: -1e3, max: 1e3 },
  presencePenalty: { min: -1e3, max: 1e3 },
};

/** The defaults with the caller's own values over them. Throws ERR_BAD_ARGUMENT naming an option out of range. */
export function samplingSettings(
  defaults: SamplingSettings,
  own: { readonly [K in keyof SamplingSettings]?: number | undefined },
): SamplingSettings {
  const settings: Record<keyof SamplingSettings, number> = { ...defaults };
  for (const key of Object.keys(RANGES) as (keyof SamplingSettings)[]) {
    const value = own[key];
    if (value === undefined) continue;
    const { min, max, whole } = RANGES[key];
    if (!Number.isFinite(value) || value < min || value > max || (whole && !Number.isInteger(value))) {
      throw new LowbitError(
        'ERR_BAD_ARGUMENT',
        `${key} is ${value}, expected ${whole ? 'a whole number' : 'a number'} from ${min} to ${max}`,
        {
          details: { option: key, value },
        },
      );
    }
    settings[key] = value;
  }
  return settings;
}
