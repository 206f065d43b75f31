import { LowbitError } from '@lowbit/core';
import { argmax, penalize, processLogits, type SamplingSettings } from './process.ts';
import type { Random } from './random.ts';

/**
 * Chooses the next token from logits f32 [vocab]: the best one at temperature 0 (lowest id of equals), else one drawn from the processed
 * distribution with one call of `random`. Throws ERR_NON_FINITE if no logit is a number.
 */
export function pickToken(logits: Float32Array, context: readonly number[], settings: SamplingSettings, random: Random): number {
  if (settings.temperature === 0) return checked(argmax(penalize(logits, context, settings.repetitionPenalty)));
  const scores = processLogits(logits, context, settings);
  const best = checked(argmax(scores));
  const top = scores[best]!;
  let total = 0;
  for (let i = 0; i < scores.length; i++) total += scores[i] = Math.exp(scores[i]! - top);
  if (!Number.isFinite(total)) return checked(-1);
  const target = random() * total;
  let sum = 0;
  for (let i = 0; i < scores.length; i++) {
    sum += scores[i]!;
    if (sum > target) return i;
  }
  return best; // rounding kept the sum below the target
}

function checked(token: number): number {
  if (token >= 0) return token;
  throw new LowbitError('ERR_NON_FINITE', 'the logits hold NaN, so no token can be chosen', {
    hint: 'The weights may be damaged, or the quantization too coarse for this model.',
  });
}
