// Routers of mixtures of experts: an invocation a row. Ids are whole numbers in f32.

import { type Kernel, kernel } from './kernel.ts';

const SIZE = 64;

export function routeKernel({ scoring, normalize }: { readonly scoring: 'softmax' | 'sigmoid'; readonly normalize: boolean }): Kernel {
  return kernel({
    name: `route ${scoring}${normalize ? ' normalize' : ''}`,
    fields: { x: 'u32', ids: 'u32', weights: 'u32', experts: 'u32', top_k: 'u32', scale: 'f32' },
    size: SIZE,
    body: `
  let row = wx * ${SIZE}u + lid;
  if (row >= rows_of(P.x)) { return; }
  let logits = at(P.x) + row * P.experts;
  let ids = at(P.ids) + row * P.top_k;
  let weights = at(P.weights) + row * P.top_k;
  for (var j = 0u; j < P.top_k; j++) {
    var best = 0u;
    var found = false;
    for (var i = 0u; i < P.experts; i++) {
      var taken = false;
      for (var before = 0u; before < j; before++) { taken = taken || arena[ids + before] == f32(i); }
      if (!taken && (!found || arena[logits + i] > arena[logits + best])) { best = i; found = true; }
    }
    arena[ids + j] = f32(best);
  }
  let largest = arena[logits + u32(arena[ids])];
  var total = 0.0;
  for (var i = 0u; i < P.experts; i++) { total += exp(arena[logits + i] - largest); }
  var sum = 0.0;
  for (var j = 0u; j < P.top_k; j++) {
    let logit = arena[logits + u32(arena[ids + j])];
    let score = ${scoring === 'sigmoid' ? 'logistic(logit)' : 'exp(logit - largest) / total'};
    arena[weights + j] = score;
    sum += score;
  }
  for (var j = 0u; j < P.top_k; j++) { arena[weights + j] = arena[weights + j]${normalize ? ' / sum' : ''} * P.scale; }`,
  });
}
