// How far a (quantized) model is from its reference, token by token.

import { breather, type CallOptions, LowbitError } from '@lowbit/core';
import { checkIds, checkScorer } from '../arguments.ts';
import { argmax } from '../sampling/process.ts';
import { logSumExp, rowDivergence } from './log-softmax.ts';
import { Mean } from './mean.ts';
import { nonFinite, type Perplexity, type Scorer, summarize, windowOptions } from './perplexity.ts';
import { evaluationWindows, type WindowOptions } from './windows.ts';

/** How far two models are apart on a text. */
export interface Divergence {
  /** Mean of KL(reference || model) over the scored positions, in nats. */
  readonly kl: number;
  /** Standard error of `kl`, as all of them from the spread of the positions taken as independent. */
  readonly klStderr: number;
  /** Share of positions where both models hold the same token the likeliest, and its standard error. */
  readonly top1: number;
  readonly top1Stderr: number;
  /** Number of positions. */
  readonly tokens: number;
  readonly reference: Perplexity;
  readonly model: Perplexity;
}

/** One text as token ids, or several, each scored on its own. */
export type Texts = ArrayLike<number> | readonly ArrayLike<number>[];

function textsOf(ids: Texts): readonly ArrayLike<number>[] {
  return typeof ids[0] === 'object' ? (ids as readonly ArrayLike<number>[]) : [ids as ArrayLike<number>];
}

/**
 * Compares the next-token distributions of two models over the same windows of a text, or of several, and scores both on the way. One row of logits of
 * each is looked at at a time; none is kept.
 * Throws ERR_BAD_ARGUMENT where their vocabularies differ or the windows are unusable, ERR_NON_FINITE where logits of either are not finite.
 */
export async function klDivergence(
  reference: Scorer,
  model: Scorer,
  ids: Texts,
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
  const cut = windowOptions(options, [reference, model]);
  const windows = textsOf(ids).flatMap((text) => evaluationWindows(text, cut));
  const total = windows.reduce((count, { from, to }) => count + to - from, 0);
  const [kl, same, p, q] = [new Mean(), new Mean(), new Mean(), new Mean()];
  const breathe = breather();
  for (const [at, { ids: window, from, to }] of windows.entries()) {
    signal?.throwIfAborted();
    const range = { from: from - 1, to: to - 1, signal };
    for await (const [expected, got, position] of pairRows(reference, model, window, range)) {
      const target = window[position + 1]!;
      const norms = [logSumExp(expected), logSumExp(got)] as const;
      const [nllP, nllQ] = [norms[0] - expected[target]!, norms[1] - got[target]!];
      const divergence = rowDivergence(expected, got, norms);
      if (!Number.isFinite(nllP)) throw nonFinite('the reference', at, position);
      if (!Number.isFinite(nllQ) || !Number.isFinite(divergence)) throw nonFinite('the model', at, position);
      kl.add(divergence);
      same.add(Number(argmax(expected) === argmax(got)));
      p.add(nllP);
      q.add(nllQ);
      await breathe();
      signal?.throwIfAborted();
    }
    onProgress?.({ phase: 'evaluate', done: kl.count, total, unit: 'tokens' });
  }
  return {
    kl: kl.mean,
    klStderr: kl.stderr,
    top1: same.mean,
    top1Stderr: same.stderr,
    tokens: kl.count,
    reference: summarize(p.sum, p.squares, p.count),
    model: summarize(q.sum, q.squares, q.count),
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
