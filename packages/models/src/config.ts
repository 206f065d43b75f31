// Typed reading of config.json. The file is untrusted: every number is bounded before anything is sized by it, and every refusal names its key.

import { isLowbitError, type JsonObject, LowbitError } from '@lowbit/core';

/** Bounds of a number in config.json, both inclusive. */
export interface NumberBounds {
  readonly min: number;
  readonly max: number;
}

function describe(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/** An ERR_BAD_CHECKPOINT about one key of config.json. */
export function badConfig(key: string, value: unknown, wanted: string): LowbitError {
  return new LowbitError('ERR_BAD_CHECKPOINT', `config.json: ${key} is ${describe(value)}, expected ${wanted}`, {
    hint: 'Check that config.json belongs to this checkpoint and was not edited by hand.',
    details: { file: 'config.json', key, value },
  });
}

/** Runs readers of this module over another file: what they refuse is said of that file. */
export function readingFile<T>(file: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!isLowbitError(error, 'ERR_BAD_CHECKPOINT') || error.details.file !== 'config.json') throw error;
    throw new LowbitError(error.code, error.message.replace('config.json', file), {
      hint: `Check that ${file} belongs to this checkpoint and was not edited by hand.`,
      details: { ...error.details, file },
    });
  }
}

/** The value of a key; null counts as absent, as in the Python library. */
export function given(config: JsonObject, key: string): JsonObject[string] | undefined {
  return (Object.hasOwn(config, key) ? config[key] : undefined) ?? undefined;
}

/** A finite number within bounds; an absent one takes `fallback`, or throws without one. `name` is the key as messages show it. */
export function readNumber(config: JsonObject, key: string, bounds: NumberBounds, fallback?: number, name = key): number {
  const value = given(config, key) ?? fallback;
  const wanted = `a number from ${bounds.min} to ${bounds.max}`;
  if (typeof value !== 'number' || !Number.isFinite(value) || value < bounds.min || value > bounds.max)
    throw badConfig(name, value, wanted);
  return value;
}

/** A whole number within bounds; an absent one takes `fallback`, or throws without one. */
export function readInteger(config: JsonObject, key: string, bounds: NumberBounds, fallback?: number, name = key): number {
  const value = readNumber(config, key, bounds, fallback, name);
  if (!Number.isInteger(value)) throw badConfig(name, value, `a whole number from ${bounds.min} to ${bounds.max}`);
  return value;
}

/** A boolean; `fallback` where absent. */
export function readBoolean(config: JsonObject, key: string, fallback: boolean): boolean {
  const value = given(config, key) ?? fallback;
  if (typeof value !== 'boolean') throw badConfig(key, value, 'true or false');
  return value;
}

/** One of the keys of `choices`, as its value; an absent one takes the choice named `fallback`. */
export function readChoice<T>(config: JsonObject, key: string, choices: Readonly<Record<string, T>>, fallback: string): T {
  const value = given(config, key) ?? fallback;
  if (typeof value !== 'string' || !Object.hasOwn(choices, value)) throw badConfig(key, value, `one of ${Object.keys(choices).join(', ')}`);
  return choices[value] as T;
}

/** A JSON object, or undefined where absent. */
export function readObject(config: JsonObject, key: string): JsonObject | undefined {
  const value = given(config, key);
  if (value === undefined) return undefined;
  if (typeof value !== 'object' || Array.isArray(value)) throw badConfig(key, value, 'an object');
  return value as JsonObject;
}

/** A number of which null means that there is none (`sliding_window`, `attn_logit_softcapping`); an absent one takes `fallback`. */
export function readOptionalNumber(config: JsonObject, key: string, bounds: NumberBounds, fallback?: number): number | undefined {
  if (Object.hasOwn(config, key) ? config[key] === null : fallback === undefined) return undefined;
  return readNumber(config, key, bounds, fallback);
}

/** A whole number of which null means that there is none; an absent one takes `fallback`. */
export function readOptionalInteger(config: JsonObject, key: string, bounds: NumberBounds, fallback?: number): number | undefined {
  const value = readOptionalNumber(config, key, bounds, fallback);
  return value === undefined ? undefined : readInteger(config, key, bounds, fallback);
}

/** An array of `length` elements (any number of them up to `most` without one), each read as the value of a key of its own; undefined where absent. */
export function readList<T>(
  config: JsonObject,
  key: string,
  size: { readonly length: number } | { readonly most: number },
  read: (elements: JsonObject, key: string) => T,
): readonly T[] | undefined {
  const value = given(config, key);
  if (value === undefined) return undefined;
  const fits = Array.isArray(value) && ('length' in size ? value.length === size.length : value.length <= size.most);
  if (!fits) throw badConfig(key, value, 'length' in size ? `a list of ${size.length}` : `a list of at most ${size.most}`);
  return value.map((element, i) => read({ [`${key}[${i}]`]: element }, `${key}[${i}]`));
}
