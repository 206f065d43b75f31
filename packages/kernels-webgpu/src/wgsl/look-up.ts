// Rows of a weight by number, in floats: embeddings, and weights made whole again. An invocation a chunk.

import { type Kernel, kernel, STEP } from './kernel.ts';
import { kindName, tableCode, type WeightKind, weightCode, weightFields } from './weight.ts';

const SIZE = 64;

/** out [tokens, inp] * factor; rows that are not of this piece are left alone. Grid: (ceil(chunks / 64), rows). */
export function lookUpKernel(weight: WeightKind): Kernel {
  return kernel({
    name: `look up: ${kindName(weight)}`,
    fields: { out: 'u32', inp: 'u32', chunks: 'u32', factor: 'f32', first_row: 'u32', ...weightFields(0) },
    weights: 1,
    size: SIZE,
    declarations: (variant) => weightCode(0, weight, variant),
    body: `
  ${tableCode(0, weight, { size: SIZE })}
  let c = wx * ${SIZE}u + lid;
  let token = step[step[${STEP.tokens}u] + wid.y];
  if (c >= P.chunks || token < P.first_row || token - P.first_row >= P.w0_out) { return; }
  var w = chunk_0(0u, token - P.first_row, c);
  let to = at(P.out) + wid.y * P.inp;
  for (var j = 0u; j < 32u; j++) {
    let k = c * 32u + j;
    if (k < P.inp) { arena[to + k] = w[j >> 2u][j & 3u] * P.factor; }
  }`,
  });
}
