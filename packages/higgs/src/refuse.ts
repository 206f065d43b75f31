// Checks that every call here makes of its options.

import { isPlainRecord, LowbitError } from '@lowbit/core';

/** ERR_BAD_ARGUMENT of one call. */
export function refusal(call: string, what: string, hint: string, details: Readonly<Record<string, unknown>>): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', `${call}: ${what}`, { hint, details });
}

/** Throws ERR_BAD_ARGUMENT if `options` is no plain object or has a name that is not known: a misspelt option is an error, not a default. */
export function checkNames(call: string, options: unknown, known: readonly string[]): void {
  const hint = `The options are ${known.join(', ')}.`;
  if (!isPlainRecord(options)) throw refusal(call, 'options must be a plain object', hint, {});
  const unknown = Object.keys(options).find((name) => !known.includes(name));
  if (unknown !== undefined) throw refusal(call, `there is no option ${unknown}`, hint, { option: unknown });
}

/** True for a list of texts, none of them empty. */
export function isNames(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((name) => typeof name === 'string' && name !== '');
}

/** A value that was refused, for a message. */
export function shown(value: unknown): string {
  return JSON.stringify(value) ?? String(value);
}
