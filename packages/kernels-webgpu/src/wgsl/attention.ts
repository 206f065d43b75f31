// Attention of the rows of one share. A workgroup a row and a head: keys 64 at a time, an invocation a key for the scores, a channel for the sums; what
// was summed before is scaled down when a larger score comes (arXiv:1805.02867), so nothing is as long as the sequence.
//
// Split, the keys of a row and head are shared out to several workgroups, and what they find is merged: a single row of a long sequence keeps more of a GPU busy.

import type { StoredFloat } from '../layout.ts';
import { CACHE_WORDS, type FieldType, type Kernel, kernel, reductions, SHARE_WORDS, STEP } from './kernel.ts';
import { type RopeStyle, ropeFields, turned } from './rope.ts';

const SIZE = 64;
/** Up to so many rows of a step, from so many keys on, keys are shared out in so many parts (of whole tiles: fewer where there are few keys). */
export const SPLIT = { rows: 4, keys: 512, parts: 16 } as const;

export interface AttentionOptions {
  readonly keyDim: number;
  readonly valueDim: number;
  /** `none`: keys and values are rows of the arena. */
  readonly cache: StoredFloat | 'none';
  readonly causal: boolean;
  readonly window: boolean;
  readonly softcap: boolean;
  readonly bias: 'none' | 'alibi' | 'relative';
  /** Parts of the keys, to be merged; default false. */
  readonly split?: boolean;
  /**
   * Of the one row of a share: its key and value come from the arena and go into the cache on the way, keys and queries rotated. A workgroup makes those of its
   * head for itself and does not read them from the cache, where the first head of those that share them writes them. Default: they are in the cache.
   */
  readonly fresh?: { readonly q?: RopeStyle | undefined; readonly k?: RopeStyle | undefined } | undefined;
}

/** `name(from, i)`: number i of what begins at word `from`. */
export function cacheReader(dtype: AttentionOptions['cache']): string {
  const value = {
    none: 'arena[start + i]',
    f32: 'bitcast<f32>(kv[start + i])',
    f16: 'unpack2x16float(kv[start + i / 2u])[i & 1u]',
    bf16: 'bitcast<f32>((kv[start + i / 2u] >> ((i & 1u) * 16u)) << 16u)',
  }[dtype];
  return `fn stored(start: u32, i: u32) -> f32 { return ${value}; }`;
}

/** Of `P`. */
export function attentionFields({ cache, window, softcap, bias }: AttentionOptions): Record<string, FieldType> {
  const fields: Record<string, FieldType> = { q: 'u32', out: 'u32', heads: 'u32', kv_heads: 'u32', scale: 'f32' };
  if (cache === 'none') Object.assign(fields, { k: 'u32', v: 'u32' });
  else Object.assign(fields, { cache: 'u32' });
  if (window) fields.window = 'u32';
  if (softcap) fields.cap = 'f32';
  if (bias !== 'none') Object.assign(fields, { bias: 'u32', reach: 'u32' });
  return fields;
}

/** Where the keys and values of a share are, and how many. */
export function keyPlaces({ keyDim, valueDim, cache }: AttentionOptions): string {
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
  return `
  let domain = P.q >> 29u;
  let share = step[${STEP.shares}u] + which.x * ${SHARE_WORDS}u;
  let kv_head = head * P.kv_heads / P.heads;
  let k_words = ${words(`(P.kv_heads * ${keyDim}u)`)};
  let v_words = ${words(`(P.kv_heads * ${valueDim}u)`)};${places}`;
}

/** For names of kernels. */
export function attentionName({ keyDim, valueDim, cache, causal, window, softcap, bias }: AttentionOptions): string {
  return `${keyDim} ${valueDim} ${cache}${causal ? ' causal' : ''}${window ? ' window' : ''}${softcap ? ' softcap' : ''} bias ${bias}`;
}

/** A new key and value in workgroup memory as a cache keeps them, and into it. */
function freshCode({ keyDim, valueDim, cache }: AttentionOptions): string {
  const kept = cache === 'f16' || cache === 'bf16' ? `round_${cache}` : '';
  const make = (name: string, dim: number, value: string): string => `
  for (var i = lid; i < ${dim}u; i += ${SIZE}u) { fresh_${name}[i] = ${kept}(${value}); }`;
  const pair = cache === 'bf16' ? 'bf16_bits(a) | (bf16_bits(b) << 16u)' : 'pack2x16float(vec2<f32>(a, b))';
  const store = (name: string, dim: number, to: string): string =>
    cache === 'f32'
      ? `
    for (var i = lid; i < ${dim}u; i += ${SIZE}u) { kv[${to} + kv_head * ${dim}u + i] = bitcast<u32>(fresh_${name}[i]); }`
      : `
    for (var i = lid; i < ${dim / 2}u; i += ${SIZE}u) {
      let a = fresh_${name}[2u * i];
      let b = fresh_${name}[2u * i + 1u];
      kv[${to} + kv_head * ${dim / 2}u + i] = ${pair};
    }`;
  return `
  let fresh = step[view + 1u];${make('k', keyDim, `turned_k(at(P.k) + row * P.kv_heads * ${keyDim}u, row, kv_head * ${keyDim}u + i)`)}${make('v', valueDim, `arena[at(P.v) + (row * P.kv_heads + kv_head) * ${valueDim}u + i]`)}
  workgroupBarrier();
  if (writes && (head == 0u || (head - 1u) * P.kv_heads / P.heads != kv_head)) {${store('k', keyDim, 'fresh * k_words')}${store('v', valueDim, 'values + fresh * v_words')}
  }`;
}

/** Whether a head has words of a cache for itself. */
export function ownWords({ keyDim, valueDim, cache }: Pick<AttentionOptions, 'keyDim' | 'valueDim' | 'cache'>): boolean {
  return cache === 'f32' || (keyDim % 2 === 0 && valueDim % 2 === 0);
}

export function attentionKernel(options: AttentionOptions): Kernel {
  const { keyDim, valueDim, cache, causal, window, softcap, bias, split = false, fresh } = options;
  const parts = SPLIT.parts;
  const fields = attentionFields(options);
  if (split) fields.parts = 'u32';
  if (fresh) Object.assign(fields, { k: 'u32', v: 'u32', ...(fresh.q ? ropeFields('q') : {}), ...(fresh.k ? ropeFields('k') : {}) });
  const query = fresh
    ? `turned_q(at(P.q) + row * P.heads * ${keyDim}u, row, head * ${keyDim}u + i)`
    : `arena[at(P.q) + (row * P.heads + head) * ${keyDim}u + i]`;
  /** The new key is the last one. */
  const old = fresh ? 'min(here, fresh - min(fresh, tile))' : 'here';
  const channels = Math.ceil(valueDim / SIZE);
  const channel = (body: (n: number) => string): string => Array.from({ length: channels }, (_, n) => body(n)).join('\n');
  return kernel({
    name: `attention${split ? ' split' : ''}${fresh ? ` fresh ${fresh.q ?? 'as it is'} ${fresh.k ?? 'as it is'}` : ''} ${attentionName(options)}`,
    fields,
    cache: true,
    size: SIZE,
    declarations: (variant) => `${cacheReader(cache)}
${reductions(SIZE, variant)}
var<workgroup> query: array<f32, ${keyDim}>;
var<workgroup> shares: array<f32, ${SIZE}>;${
      fresh
        ? `
var<workgroup> fresh_k: array<f32, ${keyDim}>;
var<workgroup> fresh_v: array<f32, ${valueDim}>;
${turned('q', fresh.q)}
${turned('k', fresh.k)}`
        : ''
    }`,
    body: `
  let head = ${split ? `wx / ${parts}u` : 'wid.x'};${keyPlaces(options)}
  let row = step[share + domain] + wid.y;
  let position = step[step[${STEP.positions}u + domain] + row];
  // Positions of keys count from \`first_position\`.
  let mine = position - min(position, first_position);
  let ${split ? 'last' : 'end'} = ${causal ? 'min(count, mine + 1u)' : 'count'};
  let ${split ? 'first' : 'begin'} = ${window ? 'select(0u, mine + 1u - P.window, mine + 1u > P.window)' : '0u'};${
    split
      ? `
  let part = wx % ${parts}u;
  let stretch = ((last - min(first, last)) / ${parts}u + ${SIZE}u) / ${SIZE}u * ${SIZE}u;
  let begin = first + part * stretch;
  let end = min(last, begin + stretch);`
      : ''
  }
  for (var i = lid; i < ${keyDim}u; i += ${SIZE}u) { query[i] = ${query} * P.scale; }${fresh ? `\n  let writes = ${split ? 'part == 0u' : 'true'};${freshCode(options)}` : ''}
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
      ${fresh ? `if (j == fresh) { for (var i = 0u; i < ${keyDim}u; i++) { score += query[i] * fresh_k[i]; } }\n      else { ` : ''}for (var i = 0u; i < ${keyDim}u; i++) { score += query[i] * stored(start, kv_head * ${keyDim}u + i); }${fresh ? ' }' : ''}
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
    let here = min(${SIZE}u, end - tile);${fresh ? `\n    let old = ${old};` : ''}
${channel(
  (n) => `    if (lid + ${n * SIZE}u < ${valueDim}u) {
      sum${n} *= shrink;
      for (var t = 0u; t < ${fresh ? 'old' : 'here'}; t++) { sum${n} += shares[t] * stored(values + (tile + t) * v_words, kv_head * ${valueDim}u + lid + ${n * SIZE}u); }${
        fresh ? `\n      if (old < here) { sum${n} += shares[old] * fresh_v[lid + ${n * SIZE}u]; }` : ''
      }
    }`,
)}
    workgroupBarrier();
  }
${
  split
    ? `  let to = at(P.parts) + ((row * P.heads + head) * ${parts}u + part) * ${valueDim + 2}u;
  if (lid == 0u) {
    arena[to] = largest;
    arena[to + 1u] = total;
  }
${channel((n) => `  if (lid + ${n * SIZE}u < ${valueDim}u) { arena[to + 2u + lid + ${n * SIZE}u] = sum${n}; }`)}`
    : `  let out = at(P.out) + (row * P.heads + head) * ${valueDim}u;
${channel((n) => `  if (lid + ${n * SIZE}u < ${valueDim}u) { arena[out + lid + ${n * SIZE}u] = select(0.0, sum${n} / total, begin < end); }`)}`
}`,
  });
}

/** What the parts of a row and head found, brought together. A workgroup a row and a head. */
export function mergeKernel(valueDim: number): Kernel {
  const { parts } = SPLIT;
  return kernel({
    name: `attention merge ${valueDim}`,
    fields: { out: 'u32', heads: 'u32', parts: 'u32' },
    cache: true,
    size: SIZE,
    declarations: `var<workgroup> factors: array<f32, ${parts}>;`,
    body: `
  let domain = P.out >> 29u;
  let row = step[step[${STEP.shares}u] + which.x * ${SHARE_WORDS}u + domain] + wid.y;
  let first = at(P.parts) + (row * P.heads + wid.x) * ${parts * (valueDim + 2)}u;
  var largest = -3.0e38;
  for (var p = 0u; p < ${parts}u; p++) { largest = max(largest, arena[first + p * ${valueDim + 2}u]); }
  if (lid < ${parts}u) { factors[lid] = exp(arena[first + lid * ${valueDim + 2}u] - largest); }
  workgroupBarrier();
  var total = 0.0;
  for (var p = 0u; p < ${parts}u; p++) { total += factors[p] * arena[first + p * ${valueDim + 2}u + 1u]; }
  for (var c = lid; c < ${valueDim}u; c += ${SIZE}u) {
    var sum = 0.0;
    for (var p = 0u; p < ${parts}u; p++) { sum += factors[p] * arena[first + p * ${valueDim + 2}u + 2u + c]; }
    arena[at(P.out) + (row * P.heads + wid.x) * ${valueDim}u + c] = select(0.0, sum / total, total > 0.0);
  }`,
  });
}
