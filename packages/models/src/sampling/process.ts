// From logits to probabilities, in float64: the processors of transformers' generate, in its order and with its meaning (bias, repetition penalty, the
// caller's own, temperature, top_k, top_p, min_p, typical_p), with the frequency and presence penalties of OpenAI's API after that of repetition.

import type { TokenHistory } from './history.ts';

/** What may shape the next-token distribution. Neutral values switch a processor off; temperature 0 is for `pickToken`, not for here. */
export interface SamplingSettings {
  /** Logits are divided by it; 0 takes the best token. Neutral: 1. */
  readonly temperature: number;
  /** Only the k best tokens, and those that tie with the last of them. Neutral: 0. */
  readonly topK: number;
  /** The best tokens until their probabilities reach this sum. Neutral: 1. */
  readonly topP: number;
  /** Only tokens with at least this share of the best one's probability. Neutral: 0. */
  readonly minP: number;
  /** Tokens whose information is closest to the entropy, until they reach this sum. Neutral: 1. */
  readonly typicalP: number;
  /** Positive logits of tokens seen before, in the prompt too, are divided by it, negative ones multiplied. Neutral: 1. */
  readonly repetitionPenalty: number;
  /** Taken off the logit of a token for every time that it was generated. Neutral: 0. */
  readonly frequencyPenalty: number;
  /** Taken off the logit of a token that was generated. Neutral: 0. */
  readonly presencePenalty: number;
}

export const NEUTRAL_SAMPLING: SamplingSettings = {
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  typicalP: 1,
  repetitionPenalty: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
};

/** Changes the scores f64 [vocab] of the next token in place, before temperature and what follows it; -Infinity rules a token out. */
export type LogitsProcessor = (scores: Float64Array, history: TokenHistory) => void;

/** What a caller does to logits beyond the settings. */
export interface LogitEdits {
  /** Added to the logits of tokens, by id. */
  readonly bias?: ReadonlyMap<number, number> | undefined;
  /** In this order. */
  readonly processors?: readonly LogitsProcessor[] | undefined;
}

const OUT = Number.NEGATIVE_INFINITY;

/** Index of the largest value, the first of equals; -1 when there is none (all NaN). */
export function argmax(values: ArrayLike<number>): number {
  let best = OUT;
  let index = -1;
  for (let i = 0; i < values.length; i++) {
    if (values[i]! > best || (index < 0 && values[i] === best)) {
      best = values[i]!;
      index = i;
    }
  }
  return index;
}

/** Softmax, in float64. */
export function softmax(scores: ArrayLike<number>): Float64Array {
  const top = scores[argmax(scores)] ?? 0;
  const out = new Float64Array(scores.length);
  let sum = 0;
  for (let i = 0; i < out.length; i++) sum += out[i] = Math.exp(scores[i]! - top);
  for (let i = 0; i < out.length; i++) out[i]! /= sum;
  return out;
}

/** Logits after everything that comes before temperature, as float64. No argument is changed. */
export function penalize(logits: Float32Array, history: TokenHistory, settings: SamplingSettings, edits: LogitEdits = {}): Float64Array {
  const { repetitionPenalty, frequencyPenalty, presencePenalty } = settings;
  const scores = Float64Array.from(logits);
  for (const [id, bias] of edits.bias ?? []) scores[id]! += bias;
  if (repetitionPenalty !== 1) {
    for (const id of new Set(history.tokens)) {
      const score = scores[id];
      if (score !== undefined) scores[id] = score < 0 ? score * repetitionPenalty : score / repetitionPenalty;
    }
  }
  if (frequencyPenalty !== 0 || presencePenalty !== 0) {
    const counts = new Map<number, number>();
    for (const id of history.tokens.slice(history.prompt)) counts.set(id, (counts.get(id) ?? 0) + 1);
    for (const [id, count] of counts) scores[id]! -= frequencyPenalty * count + presencePenalty;
  }
  for (const process of edits.processors ?? []) process(scores, history);
  return scores;
}

/** The k-th largest value. */
function kthLargest(values: Float64Array, k: number): number {
  if (k > 1024) return Float64Array.from(values).sort()[values.length - k]!;
  // A short sorted list: hardly any value of a large vocabulary gets in.
  const best = new Float64Array(k).fill(OUT);
  for (const value of values) {
    if (value <= best[0]!) continue;
    let i = 1;
    while (i < k && best[i]! < value) {
      best[i - 1] = best[i]!;
      i++;
    }
    best[i - 1] = value;
  }
  return best[0]!;
}

function keepTopK(scores: Float64Array, k: number): void {
  if (k >= scores.length) return;
  const last = kthLargest(scores, k);
  for (let i = 0; i < scores.length; i++) if (scores[i]! < last) scores[i] = OUT;
}

/** Scores within `range` of the best one, falling. */
function scoresWithin(scores: Float64Array, top: number, range: number): Float64Array {
  return scores.filter((score) => score >= top - range).sort((a, b) => b - a);
}

/** Keeps the tokens whose betters sum to less than `p`; among equals at the cut, those of lower index. */
function keepTopP(scores: Float64Array, p: number): void {
  const top = scores[argmax(scores)];
  if (top === undefined || top === OUT) return;
  let total = 0;
  for (const score of scores) total += Math.exp(score - top);
  // Most of the mass is near the top, and a vocabulary is long to sort: further down only where that is not enough.
  for (const range of [4, 16, Number.POSITIVE_INFINITY]) {
    const sorted = scoresWithin(scores, top, range);
    let kept = 0;
    let above = 0;
    for (; kept < sorted.length && sorted[kept]! > OUT && (kept === 0 || above < p * total); kept++) above += Math.exp(sorted[kept]! - top);
    if (kept === sorted.length && range < Number.POSITIVE_INFINITY) continue;
    const cut = sorted[kept - 1]!;
    let ties = kept;
    for (let i = 0; sorted[i]! > cut; i++) ties--;
    for (let i = 0; i < scores.length; i++) {
      if (scores[i]! < cut || (scores[i] === cut && --ties < 0)) scores[i] = OUT;
    }
    return;
  }
}

function keepMinP(scores: Float64Array, share: number): void {
  const floor = (scores[argmax(scores)] ?? 0) + Math.log(share);
  for (let i = 0; i < scores.length; i++) if (scores[i]! < floor) scores[i] = OUT;
}

/** Locally typical sampling (arXiv 2202.00666). */
function keepTypical(scores: Float64Array, mass: number): void {
  const p = softmax(scores);
  let entropy = 0;
  for (const x of p) if (x > 0) entropy -= x * Math.log(x);
  const distance = p.map((x) => Math.abs(-Math.log(x) - entropy));
  const order = Uint32Array.from(p.keys()).sort((a, b) => distance[a]! - distance[b]! || a - b);
  let sum = 0;
  let last = 0;
  for (let i = 0; i < order.length; i++) {
    sum += p[order[i]!]!;
    if (sum >= mass) {
      last = i;
      break;
    }
    last = i;
  }
  const cut = distance[order[last]!]!;
  for (let i = 0; i < scores.length; i++) if (distance[i]! > cut) scores[i] = OUT;
}

/**
 * Scores after all processors: f64 [vocab], minus infinity for tokens ruled out; their softmax is the distribution sampled from.
 * `settings.temperature` must be above 0.
 */
export function processLogits(
  logits: Float32Array,
  history: TokenHistory,
  settings: SamplingSettings,
  edits: LogitEdits = {},
): Float64Array {
  const { temperature, topK, topP, minP, typicalP } = settings;
  const scores = penalize(logits, history, settings, edits);
  if (temperature !== 1) for (let i = 0; i < scores.length; i++) scores[i]! /= temperature;
  if (topK > 0) keepTopK(scores, topK);
  if (topP < 1) keepTopP(scores, topP);
  if (minP > 0) keepMinP(scores, minP);
  if (typicalP < 1) keepTypical(scores, typicalP);
  return scores;
}
