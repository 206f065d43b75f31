// Perplexity: how surprised a model is by a text, exp(mean negative log-likelihood of its tokens).

import { breather, type CallOptions, LowbitError } from '@lowbit/core';
import { checkIds, checkScorer } from '../arguments.ts';
import type { LogitRows } from '../model/forward.ts';
import { negativeLogLikelihood } from './log-softmax.ts';
import { evaluationWindows, type WindowOptions } from './windows.ts';

/** What evaluation needs of a model; `LanguageModel` has it. */
export interface Scorer {
  readonly vocab: number;
  readonly contextLength: number;
  logitRows(
    ids: ArrayLike<number>,
    options?: { readonly from?: number; readonly to?: number; readonly signal?: AbortSignal | undefined },
  ): AsyncIterable<LogitRows>;
}

/** `contextLength` defaults to the model's, at most 2,048. */
export interface PerplexityOptions extends CallOptions, Partial<WindowOptions> {
  /** Called with every scored token: its index among the scored ones and its negative log-likelihood in nats. */
  readonly onToken?: ((index: number, nll: number) => void) | undefined;
}

/** How well a model predicts a text. */
export interface Perplexity {
  /** exp(nll). */
  readonly perplexity: number;
  /** Mean negative log-likelihood of the scored tokens, in nats. */
  readonly nll: number;
  /** Standard error of `perplexity`, from the spread of the tokens taken as independent (delta method). */
  readonly stderr: number;
  /** Number of scored tokens. */
  readonly tokens: number;
}

/** Options with the context filled in for these models. */
export function windowOptions(options: Partial<WindowOptions>, models: readonly Scorer[]): WindowOptions {
  return { ...options, contextLength: options.contextLength ?? Math.min(2048, ...models.map((model) => model.contextLength)) };
}

/** Logits that give the next token no finite score. `position` is that of the row in its window. */
export function nonFinite(who: string, window: number, position: number): LowbitError {
  return new LowbitError('ERR_NON_FINITE', `the logits of ${who} after position ${position} of window ${window} are not finite`, {
    hint: 'The weights may be damaged, or the quantization too coarse for this model.',
    details: { window, position },
  });
}

/** Mean, its exponential and the standard error of that, from sums over `tokens` values. */
export function summarize(sum: number, squares: number, tokens: number): Perplexity {
  const nll = sum / tokens;
  const perplexity = Math.exp(nll);
  const variance = tokens > 1 ? Math.max(0, (squares - sum * nll) / (tokens - 1)) : 0;
  return { perplexity, nll, stderr: perplexity * Math.sqrt(variance / tokens), tokens };
}

/**
 * Perplexity of a text given as token ids, over sliding or separate windows (see `WindowOptions`): the mean over all scored tokens, each scored once.
 * Throws ERR_BAD_ARGUMENT for unusable windows, ERR_LIMIT for windows over the model's context, ERR_NON_FINITE where logits give a token no finite
 * score (NaN or Infinity anywhere in the row, or minus Infinity for the token itself).
 *
 * @example
 * const { perplexity: ppl, stderr } = await perplexity(model, model.tokenizer.encode(text), { contextLength: 1024, stride: 512 });
 */
export async function perplexity(model: Scorer, ids: ArrayLike<number>, options: PerplexityOptions = {}): Promise<Perplexity> {
  checkScorer('perplexity', model);
  checkIds('perplexity', ids);
  const { signal, onProgress, onToken } = options;
  const windows = evaluationWindows(ids, windowOptions(options, [model]));
  const total = windows.reduce((count, { from, to }) => count + to - from, 0);
  let sum = 0;
  let squares = 0;
  let tokens = 0;
  const breathe = breather();
  for (const [at, window] of windows.entries()) {
    signal?.throwIfAborted();
    for await (const { position, rows, logits } of model.logitRows(window.ids, { from: window.from - 1, to: window.to - 1, signal })) {
      for (let row = 0; row < rows; row++) {
        const nll = negativeLogLikelihood(logits.subarray(row * model.vocab, (row + 1) * model.vocab), window.ids[position + row + 1]!);
        if (!Number.isFinite(nll)) throw nonFinite('the model', at, position + row);
        onToken?.(tokens, nll);
        sum += nll;
        squares += nll * nll;
        tokens++;
        // Rows of large vocabularies take as long as a step: whoever aborts is heard between them.
        await breathe();
        signal?.throwIfAborted();
      }
      onProgress?.({ phase: 'evaluate', done: tokens, total, unit: 'tokens' });
    }
  }
  return summarize(sum, squares, tokens);
}
