import { LowbitError } from '@lowbit/core';
import type { TokenHistory } from './history.ts';
import { argmax, type LogitEdits, penalize, processLogits, type SamplingSettings } from './process.ts';
import type { Random } from './random.ts';

/**
 * Chooses the next token from logits f32 [vocab]: the best one at temperature 0 (lowest id of equals), else one drawn from the processed
 * distribution with one call of `random`. Throws ERR_NON_FINITE if no token can be chosen.
 */
export function pickToken(
  logits: Float32Array,
  history: TokenHistory,
  settings: SamplingSettings,
  random: Random,
  edits: LogitEdits = {},
): number {
  if (settings.temperature === 0) {
    const scores = penalize(logits, history, settings, edits);
    return checked(scores.some(Number.isNaN) ? -1 : argmax(scores), scores);
  }
  const scores = processLogits(logits, history, settings, edits);
  const best = checked(argmax(scores), scores);
  const top = scores[best]!;
  let total = 0;
  for (let i = 0; i < scores.length; i++) total += scores[i] = Math.exp(scores[i]! - top);
  if (!Number.isFinite(total)) return checked(-1, scores);
  const target = random() * total;
  let sum = 0;
  for (let i = 0; i < scores.length; i++) {
    sum += scores[i]!;
    if (sum > target) return i;
  }
  return best; // rounding kept the sum below the target
}

function checked(token: number, scores: Float64Array): number {
  if (scores[token] === Number.NEGATIVE_INFINITY) {
    throw new LowbitError('ERR_NON_FINITE', 'every token is ruled out, so none can be chosen', {
      hint: 'logitBias or a logits processor leaves no token with a finite score.',
    });
  }
  if (token >= 0) return token;
  throw new LowbitError('ERR_NON_FINITE', 'the logits hold NaN, so no token can be chosen', {
    hint: 'The weights may be damaged, the quantization too coarse for this model, or a logits processor wrong.',
  });
}
