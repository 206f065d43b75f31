// Checks that every call here makes of its options.

import { LowbitError } from '@lowbit/core';

/** ERR_BAD_ARGUMENT of one call. */
export function refusal(call: string, what: string, hint: string, details: Readonly<Record<string, unknown>>): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', `${call}: ${what}`, { hint, details });
}

/** True for a list of texts, none of them empty. */
export function isNames(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((name) => typeof name === 'string' && name !== '');
}

/** A value that was refused, for a message. */
export function shown(value: unknown): string {
  return JSON.stringify(value) ?? String(value);
}
