// How far a (quantized) model is from its reference, token by token.

import { type CallOptions, LowbitError } from '@lowbit/core';
import { checkIds, checkScorer } from '../arguments.ts';
import { argmax } from '../sampling/process.ts';
import { negativeLogLikelihood, rowDivergence } from './log-softmax.ts';
import { nonFinite, type Perplexity, type Scorer, summarize, windowOptions } from './perplexity.ts';
import { evaluationWindows, type WindowOptions } from './windows.ts';

export interface Divergence {
  /** Mean of KL(reference || model) over the scored positions, in nats. */
  readonly kl: number;
  /** Share of positions where both models hold the same token the likeliest. */
  readonly top1: number;
  /** Number of positions. */
  readonly tokens: number;
  readonly reference: Perplexity;
  readonly model: Perplexity;
}

/**
 * Compares the next-token distributions of two models over the same windows of a text, and scores both on the way.
 * Throws ERR_BAD_ARGUMENT where their vocabularies differ or the windows are unusable, ERR_NON_FINITE where logits of either are not finite.
 */
export async function klDivergence(
  reference: Scorer,
  model: Scorer,
  ids: ArrayLike<number>,
  options: CallOptions & Partial<WindowOptions> = {},
): Promise<Divergence> {
  for (const one of [reference, model]) checkScorer('klDivergence', one);
  checkIds('klDivergence', ids);
  const { signal, onProgress } = options;
  if (reference.vocab !== model.vocab) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `the reference has ${reference.vocab} tokens, the model ${model.vocab}`, {
      hint: 'Only models with one vocabulary can be compared.',
    });
  }
  const windows = evaluationWindows(ids, windowOptions(options, [reference, model]));
  const total = windows.reduce((count, { from, to }) => count + to - from, 0);
  const sums = { kl: 0, same: 0, tokens: 0, p: 0, pp: 0, q: 0, qq: 0 };
  for (const [at, { ids: window, from, to }] of windows.entries()) {
    signal?.throwIfAborted();
    const range = { from: from - 1, to: to - 1, signal };
    for await (const [expected, got, position] of pairRows(reference, model, window, range)) {
      const target = window[position + 1]!;
      const p = negativeLogLikelihood(expected, target);
      const q = negativeLogLikelihood(got, target);
      const kl = rowDivergence(expected, got);
      if (!Number.isFinite(p)) throw nonFinite('the reference', at, position);
      if (!Number.isFinite(q) || !Number.isFinite(kl)) throw nonFinite('the model', at, position);
      sums.kl += kl;
      sums.same += Number(argmax(expected) === argmax(got));
      sums.p += p;
      sums.pp += p * p;
      sums.q += q;
      sums.qq += q * q;
      sums.tokens++;
    }
    onProgress?.({ phase: 'evaluate', done: sums.tokens, total, unit: 'tokens' });
  }
  const { tokens } = sums;
  return {
    kl: sums.kl / tokens,
    top1: sums.same / tokens,
    tokens,
    reference: summarize(sums.p, sums.pp, tokens),
    model: summarize(sums.q, sums.qq, tokens),
  };
}

interface Range {
  readonly from: number;
  readonly to: number;
  readonly signal: AbortSignal | undefined;
}

/** Rows of both models at the same positions; the models may hand them out in chunks of different sizes. */
async function* pairRows(
  first: Scorer,
  second: Scorer,
  window: Uint32Array,
  range: Range,
): AsyncGenerator<readonly [Float32Array, Float32Array, number]> {
  const others = singleRows(second, window, range);
  try {
    for await (const [row, position] of singleRows(first, window, range)) {
      const other = await others.next();
      if (other.done) return;
      yield [row, other.value[0], position];
    }
  } finally {
    await others.return(undefined);
  }
}

async function* singleRows(
  scorer: Scorer,
  window: Uint32Array,
  range: Range,
): AsyncGenerator<readonly [Float32Array, number], void, undefined> {
  for await (const { position, rows, logits } of scorer.logitRows(window, range)) {
    for (let row = 0; row < rows; row++) yield [logits.subarray(row * scorer.vocab, (row + 1) * scorer.vocab), position + row];
  }
}
