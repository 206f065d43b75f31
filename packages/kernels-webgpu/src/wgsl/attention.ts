// Attention of the rows of one share. A workgroup a row and a head: keys 64 at a time, an invocation a key for the scores, a channel for the sums; what
// was summed before is scaled down when a larger score comes (arXiv:1805.02867), so nothing is as long as the sequence.

import type { StoredFloat } from '../layout.ts';
import { CACHE_WORDS, type FieldType, type Kernel, kernel, reductions, SHARE_WORDS, STEP } from './kernel.ts';

const SIZE = 64;

export interface AttentionOptions {
  readonly keyDim: number;
  readonly valueDim: number;
  /** `none`: keys and values are rows of the arena. */
  readonly cache: StoredFloat | 'none';
  readonly causal: boolean;
  readonly window: boolean;
  readonly softcap: boolean;
  readonly bias: 'none' | 'alibi' | 'relative';
}

/** `name(from, i)`: number i of what begins at word `from`. */
function reader(dtype: AttentionOptions['cache']): string {
  const value = {
    none: 'arena[start + i]',
    f32: 'bitcast<f32>(kv[start + i])',
    f16: 'unpack2x16float(kv[start + i / 2u])[i & 1u]',
    bf16: 'bitcast<f32>((kv[start + i / 2u] >> ((i & 1u) * 16u)) << 16u)',
  }[dtype];
  return `fn stored(start: u32, i: u32) -> f32 { return ${value}; }`;
}

export function attentionKernel(options: AttentionOptions): Kernel {
  const { keyDim, valueDim, cache, causal, window, softcap, bias } = options;
  const fields: Record<string, FieldType> = { q: 'u32', out: 'u32', heads: 'u32', kv_heads: 'u32', scale: 'f32' };
  if (cache === 'none') Object.assign(fields, { k: 'u32', v: 'u32' });
  else Object.assign(fields, { cache: 'u32' });
  if (window) fields.window = 'u32';
  if (softcap) fields.cap = 'f32';
  if (bias !== 'none') Object.assign(fields, { bias: 'u32', reach: 'u32' });
  const channels = Math.ceil(valueDim / SIZE);
  const words = (width: string): string => (cache === 'f16' || cache === 'bf16' ? `((${width} + 1u) / 2u)` : width);
  const places =
    cache === 'none'
      ? `
  let count = step[share + 4u + domain];
  let first_position = select(step[share + 8u], 0u, domain == 3u);
  let keys = at(P.k) + step[share + domain] * k_words;
  let values = at(P.v) + step[share + domain] * v_words;`
      : `
  let view = step[${STEP.caches}u] + (which.x * step[${STEP.cacheCount}u] + P.cache) * ${CACHE_WORDS}u;
  let count = step[view];
  let first_position = 0u;
  let keys = 0u;
  let values = step[view + 2u] * k_words;`;
  const channel = (body: (n: number) => string): string => Array.from({ length: channels }, (_, n) => body(n)).join('\n');
  return kernel({
    name: `attention ${keyDim} ${valueDim} ${cache}${causal ? ' causal' : ''}${window ? ' window' : ''}${softcap ? ' softcap' : ''} bias ${bias}`,
    fields,
    cache: true,
    size: SIZE,
    declarations: `${reader(cache)}
${reductions(SIZE)}
var<workgroup> query: array<f32, ${keyDim}>;
var<workgroup> shares: array<f32, ${SIZE}>;`,
    body: `
  let head = wid.x;
  let domain = P.q >> 29u;
  let share = step[${STEP.shares}u] + which.x * ${SHARE_WORDS}u;
  let row = step[share + domain] + wid.y;
  let position = step[step[${STEP.positions}u + domain] + row];
  let kv_head = head * P.kv_heads / P.heads;
  let k_words = ${words(`(P.kv_heads * ${keyDim}u)`)};
  let v_words = ${words(`(P.kv_heads * ${valueDim}u)`)};
${places}
  // Positions of keys count from \`first_position\`.
  let mine = position - min(position, first_position);
  let end = ${causal ? 'min(count, mine + 1u)' : 'count'};
  let begin = ${window ? 'select(0u, mine + 1u - P.window, mine + 1u > P.window)' : '0u'};
  for (var i = lid; i < ${keyDim}u; i += ${SIZE}u) { query[i] = arena[at(P.q) + (row * P.heads + head) * ${keyDim}u + i] * P.scale; }
${channel((n) => `  var sum${n} = 0.0;`)}
  var largest = -3.0e38;
  var total = 0.0;
  workgroupBarrier();
  for (var tile = begin; tile < end; tile += ${SIZE}u) {
    let j = tile + lid;
    var score = -3.0e38;
    if (j < end) {
      let start = keys + j * k_words;
      score = 0.0;
      for (var i = 0u; i < ${keyDim}u; i++) { score += query[i] * stored(start, kv_head * ${keyDim}u + i); }
      ${softcap ? 'score = P.cap * tanh_of(score / P.cap);' : ''}
      ${bias === 'alibi' ? 'score += constants[P.bias + head] * f32(i32(j) - i32(mine));' : ''}
      ${bias === 'relative' ? 'score += constants[P.bias + u32(clamp(i32(j) - i32(mine), -i32(P.reach), i32(P.reach)) + i32(P.reach)) * P.heads + head];' : ''}
    }
    let larger = max(largest, largest_of_all(score, lid));
    let shrink = exp(largest - larger);
    largest = larger;
    let mine_share = select(0.0, exp(score - larger), j < end);
    shares[lid] = mine_share;
    total = total * shrink + sum_of_all(mine_share, lid);
    let here = min(${SIZE}u, end - tile);
${channel(
  (n) => `    if (lid + ${n * SIZE}u < ${valueDim}u) {
      sum${n} *= shrink;
      for (var t = 0u; t < here; t++) { sum${n} += shares[t] * stored(values + (tile + t) * v_words, kv_head * ${valueDim}u + lid + ${n * SIZE}u); }
    }`,
)}
    workgroupBarrier();
  }
  let out = at(P.out) + (row * P.heads + head) * ${valueDim}u;
${channel((n) => `  if (lid + ${n * SIZE}u < ${valueDim}u) { arena[out + lid + ${n * SIZE}u] = select(0.0, sum${n} / total, begin < end); }`)}`,
  });
}
