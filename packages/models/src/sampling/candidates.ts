// Choosing among the best tokens alone: a model need not hand over the logits of its whole vocabulary for each one.

import { pickToken } from './pick.ts';
import type { SamplingSettings } from './process.ts';
import type { Random } from './random.ts';

/** More than `topK`: those that tie with the last of them are kept, too. */
const TIES = 64;

/**
 * How many of the largest logits decide the next token as all of them would: those that can be chosen, and as many more as a repetition penalty may put
 * behind them. 0: all are needed.
 */
export function logitsNeeded(
  { temperature, topK, repetitionPenalty }: SamplingSettings,
  context: readonly number[],
  vocab: number,
): number {
  if (repetitionPenalty < 1 || (temperature > 0 && topK === 0)) return 0;
  const chosen = temperature === 0 ? 1 : topK + TIES;
  const count = chosen + (repetitionPenalty === 1 ? 0 : new Set(context).size);
  return count < vocab / 4 ? count : 0;
}

/**
 * `pickToken` among the `logits` of the tokens `ids` (any order, -1 is none). Of tokens that tie with the last of `topK` those count that are here.
 * Throws ERR_NON_FINITE if there is none.
 */
export function pickCandidate(
  logits: Float32Array,
  ids: Int32Array,
  context: readonly number[],
  settings: SamplingSettings,
  random: Random,
): number {
  const order = Array.from(ids.keys())
    .filter((i) => ids[i]! >= 0)
    .sort((a, b) => ids[a]! - ids[b]!);
  const places = new Map(order.map((i, place) => [ids[i]!, place]));
  const seen = settings.repetitionPenalty === 1 ? [] : context.map((id) => places.get(id) ?? -1).filter((place) => place >= 0);
  const sorted = Float32Array.from(order, (i) => logits[i]!);
  return ids[order[pickToken(sorted, seen, settings, random)]!]!;
}
