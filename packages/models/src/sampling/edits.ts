import { LowbitError } from '@lowbit/core';
import type { LogitEdits, LogitsProcessor } from './process.ts';

/**
 * A caller's bias by token id and processors, checked. Throws ERR_BAD_ARGUMENT for what is no token of the vocabulary, a bias that is NaN or +Infinity, and
 * a processor that is no function.
 */
export function logitEdits(
  logitBias: Readonly<Record<number, number>> | undefined,
  processors: readonly LogitsProcessor[] | undefined,
  vocab: number,
): LogitEdits {
  const bias = new Map<number, number>();
  for (const [key, value] of Object.entries(logitBias ?? {})) {
    const id = Number(key);
    if (String(id) !== key || !Number.isInteger(id) || id < 0 || id >= vocab) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `logitBias names ${JSON.stringify(key)}, which is no token`, {
        hint: `Tokens are whole numbers from 0 to ${vocab - 1}; model.tokenizer.encode gives those of a text.`,
        details: { token: key, vocab },
      });
    }
    if (typeof value !== 'number' || Number.isNaN(value) || value === Number.POSITIVE_INFINITY) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `the logitBias of token ${id} is ${value}`, {
        hint: 'Pass a number; -Infinity rules the token out.',
        details: { token: id, bias: value },
      });
    }
    bias.set(id, value);
  }
  if (processors !== undefined && !Array.isArray(processors)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'logitsProcessors is no list', { hint: 'Pass a list of functions.' });
  }
  for (const [i, one] of (processors ?? []).entries()) {
    if (typeof one === 'function') continue;
    throw new LowbitError('ERR_BAD_ARGUMENT', `logitsProcessors[${i}] is no function`, {
      hint: 'A processor is (scores, history) => void and changes the scores in place.',
    });
  }
  return { ...(bias.size > 0 ? { bias } : {}), ...(processors && processors.length > 0 ? { processors } : {}) };
}
