// Guesses of what comes next, from what was said before (prompt lookup, after github.com/apoorvumang/prompt-lookup-decoding): texts that repeat names,
// quotes or code repeat their order. A guess is checked in the step that it would have taken anyway, so the text is the same with or without,
// wherever a row's results do not depend on the others of its step.

import { LowbitError } from '@lowbit/core';

/** Guessing tokens by looking them up in the text so far. */
export interface PromptLookup {
  /** Most tokens to guess at a time; default 3. A step of as many tokens more takes longer than one of a single token. */
  readonly tokens?: number;
  /** So many last tokens must have been seen before, in this order; default 2. */
  readonly ngram?: number;
}

/** Checked, with defaults; undefined for none. Throws ERR_BAD_ARGUMENT. */
export function lookupOf({ promptLookup = false }: { readonly promptLookup?: boolean | PromptLookup }): Required<PromptLookup> | undefined {
  if (promptLookup === false) return undefined;
  if (promptLookup !== true && (typeof promptLookup !== 'object' || promptLookup === null)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `promptLookup cannot be ${String(promptLookup)}`, {
      hint: 'Pass true, or { tokens, ngram }.',
    });
  }
  const { tokens = 3, ngram = 2 } = promptLookup === true ? {} : promptLookup;
  for (const [name, value, most] of [
    ['tokens', tokens, 64],
    ['ngram', ngram, 16],
  ] as const) {
    if (Number.isInteger(value) && value >= 1 && value <= most) continue;
    throw new LowbitError('ERR_BAD_ARGUMENT', `promptLookup.${name} is ${value}, expected a whole number from 1 to ${most}`, {
      details: { option: name, value },
    });
  }
  return { tokens, ngram };
}

/** What followed the last time that `tokens` ended like this: at most `most` tokens, none if it never did. */
export function guess(tokens: readonly number[], { ngram, tokens: count }: Required<PromptLookup>, most: number): readonly number[] {
  const end = tokens.length;
  for (let at = end - ngram - 1; at >= 0; at--) {
    let same = 0;
    while (same < ngram && tokens[at + same] === tokens[end - ngram + same]) same++;
    if (same === ngram) return tokens.slice(at + ngram, Math.min(at + ngram + Math.min(count, most), end));
  }
  return [];
}
