// Scoring of logits, in float64 whatever the model computes in.

/** log of the sum of exponentials. */
export function logSumExp(logits: Float32Array): number {
  let top = Number.NEGATIVE_INFINITY;
  for (const logit of logits) if (logit > top) top = logit;
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - top);
  return top + Math.log(sum);
}

/** Negative log-likelihood of `token` in nats. */
export function negativeLogLikelihood(logits: Float32Array, token: number): number {
  return logSumExp(logits) - logits[token]!;
}

/** KL(reference || model) in nats between the next-token distributions of two rows of logits. Never below 0 but for rounding. `logSumExp` of both, if known. */
export function rowDivergence(
  reference: Float32Array,
  model: Float32Array,
  [normP, normQ]: readonly [number, number] = [logSumExp(reference), logSumExp(model)],
): number {
  let sum = 0;
  for (let i = 0; i < reference.length; i++) {
    const logP = reference[i]! - normP;
    const p = Math.exp(logP);
    if (p > 0) sum += p * (logP - (model[i]! - normQ));
  }
  return sum;
}
