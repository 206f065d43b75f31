// Cutting a long text into windows for evaluation. Each window scores only the tokens that no earlier one has scored: the sliding window of the
// transformers documentation. With the default stride windows do not overlap.

import { LowbitError } from '@lowbit/core';

/** How a text is cut into windows. */
export interface WindowOptions {
  /** Tokens of one window, prefix included. */
  readonly contextLength: number;
  /** Tokens from the start of one window to that of the next; default as many as a window holds. Smaller gives every token more context. */
  readonly stride?: number | undefined;
  /** Put in front of every window and not scored, such as a start token. With one, the first token of each window is scored too. */
  readonly prefixIds?: readonly number[] | undefined;
  /** Leave out a last window that is not full; default false. */
  readonly dropPartial?: boolean | undefined;
}

/** Tokens that are run at once, and which of them are scored. */
export interface EvaluationWindow {
  /** Prefix and text. */
  readonly ids: Uint32Array;
  /** Indices [from, to) into `ids` of the tokens to score; from is at least 1. */
  readonly from: number;
  readonly to: number;
}

/** The windows of a text, in order. Throws ERR_BAD_ARGUMENT for unusable options or a text without a token to score. */
export function evaluationWindows(ids: ArrayLike<number>, options: WindowOptions): EvaluationWindow[] {
  const { contextLength, prefixIds = [], dropPartial = false } = options;
  const body = contextLength - prefixIds.length;
  const stride = options.stride ?? body;
  const bad = (message: string, hint: string): LowbitError =>
    new LowbitError('ERR_BAD_ARGUMENT', message, { hint, details: { contextLength, stride, tokens: ids.length } });
  if (!Number.isInteger(contextLength) || contextLength < 2)
    throw bad(
      `contextLength is ${contextLength}, expected a whole number from 2`,
      'Leave it out for that of the model, at most 2048 tokens.',
    );
  if (body < 1)
    throw bad(
      `a prefix of ${prefixIds.length} tokens leaves no room in a context of ${contextLength}`,
      'Shorten prefixIds, or take a larger contextLength.',
    );
  if (!Number.isInteger(stride) || stride < 1 || stride > body)
    throw bad(`stride is ${stride}, expected a whole number from 1 to ${body}`, 'Leave it out for windows that do not overlap.');
  const windows: EvaluationWindow[] = [];
  let scored = 0;
  for (let begin = 0; begin < ids.length; begin += stride) {
    const end = Math.min(begin + body, ids.length);
    if (dropPartial && end - begin < body) break;
    const window = new Uint32Array(prefixIds.length + end - begin);
    window.set(prefixIds);
    for (let i = begin, at = prefixIds.length; i < end; i++, at++) {
      window[at] = ids[i]!;
      if (window[at] !== ids[i])
        throw bad(`token ${ids[i]} at ${i} is no token id`, 'Pass whole numbers from 0, as the tokenizer gives them.');
    }
    const from = Math.max(1, prefixIds.length + scored - begin);
    if (from < window.length) windows.push({ ids: window, from, to: window.length });
    scored = end;
    if (end === ids.length) break;
  }
  if (windows.length === 0)
    throw bad(
      `${ids.length} tokens give no token to score`,
      `Pass a longer text${dropPartial ? ', a smaller contextLength, or no dropPartial' : ': a token is scored by those in front of it'}.`,
    );
  return windows;
}
