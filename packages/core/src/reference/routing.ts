// Mixture of experts: choosing experts and joining their results.

import type { Route } from '../spec/program.ts';

/** Expert ids and weights per row, best first. Experts are ranked by x itself (both scorings grow with it); of equals the lower index comes first. */
export function route(x: Float32Array, experts: number, op: Route): { readonly ids: Int32Array; readonly weights: Float32Array } {
  const rows = x.length / experts;
  const ids = new Int32Array(rows * op.topK);
  const weights = new Float32Array(rows * op.topK);
  for (let row = 0; row < rows; row++) {
    const logits = x.subarray(row * experts, (row + 1) * experts);
    const ranked = Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]! || a - b);
    const chosen = ranked.slice(0, op.topK);
    const max = logits[ranked[0]!]!;
    let total = 0;
    for (const logit of logits) total += Math.exp(logit - max);
    const scores = chosen.map((id) => (op.scoring === 'softmax' ? Math.exp(logits[id]! - max) / total : 1 / (1 + Math.exp(-logits[id]!))));
    const divisor = op.normalize ? scores.reduce((sum, score) => sum + score, 0) : 1;
    for (let j = 0; j < op.topK; j++) {
      ids[row * op.topK + j] = chosen[j]!;
      weights[row * op.topK + j] = (scores[j]! / divisor) * op.scale;
    }
  }
  return { ids, weights };
}

/** Sum over j of weights[t][j] * x[t * topK + j]. */
export function combine(x: Float32Array, width: number, weights: Float32Array, topK: number): Float32Array {
  const rows = weights.length / topK;
  const out = new Float32Array(rows * width);
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < width; i++) {
      let sum = 0;
      for (let j = 0; j < topK; j++) sum += weights[row * topK + j]! * x[(row * topK + j) * width + i]!;
      out[row * width + i] = sum;
    }
  }
  return out;
}
