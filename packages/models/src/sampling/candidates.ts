// Choosing among the best tokens alone: a model need not hand over the logits of its whole vocabulary for each one.

import type { TokenHistory } from './history.ts';
import { pickToken } from './pick.ts';
import type { SamplingSettings } from './process.ts';
import type { Random } from './random.ts';

/** More than `topK`: those that tie with the last of them are kept, too. */
const TIES = 64;
/** More than these are no cheaper than all. */
const MOST = 1024;

/**
 * How many of the largest logits decide the next token as all of them would: those that can be chosen, and as many more as a penalty may put behind
 * them. 0: all are needed.
 */
export function logitsNeeded(settings: SamplingSettings, history: TokenHistory, vocab: number): number {
  const { temperature, topK, repetitionPenalty, frequencyPenalty, presencePenalty } = settings;
  const raises = repetitionPenalty < 1 || frequencyPenalty < 0 || presencePenalty < 0;
  if (raises || (temperature > 0 && topK === 0)) return 0;
  const chosen = temperature === 0 ? 1 : topK + TIES;
  const count = chosen + (penalizes(settings) ? new Set(history.tokens).size : 0);
  return count < Math.min(vocab / 4, MOST) ? count : 0;
}

/**
 * `pickToken` among the `logits` of the tokens `ids` (any order, -1 is none). Of tokens that tie with the last of `topK` those count that are here.
 * Throws ERR_NON_FINITE if there is none.
 */
export function pickCandidate(
  logits: Float32Array,
  ids: Int32Array,
  history: TokenHistory,
  settings: SamplingSettings,
  random: Random,
): number {
  const order = Array.from(ids.keys())
    .filter((i) => ids[i]! >= 0)
    .sort((a, b) => ids[a]! - ids[b]!);
  const places = new Map(order.map((i, place) => [ids[i]!, place]));
  const seen = penalizes(settings) ? placesOf(history, places) : { tokens: [], prompt: 0 };
  const sorted = Float32Array.from(order, (i) => logits[i]!);
  return ids[order[pickToken(sorted, seen, settings, random)]!]!;
}

function penalizes({ repetitionPenalty, frequencyPenalty, presencePenalty }: SamplingSettings): boolean {
  return repetitionPenalty !== 1 || frequencyPenalty !== 0 || presencePenalty !== 0;
}

/** A history of the tokens that have a place, by their places. */
function placesOf({ tokens, prompt }: TokenHistory, places: ReadonlyMap<number, number>): TokenHistory {
  const of = (some: readonly number[]): number[] => some.flatMap((id) => places.get(id) ?? []);
  const first = of(tokens.slice(0, prompt));
  return { tokens: [...first, ...of(tokens.slice(prompt))], prompt: first.length };
}
