// Rotations, and keys and values into caches. Cosines and sines come with the step, [rows, dim / 2, 2], multiplied by the rotation's factor.

import type { StoredFloat } from '../layout.ts';
import { CACHE_WORDS, type FieldType, type Kernel, kernel, SHARE_WORDS, STEP } from './kernel.ts';

export type RopeStyle = 'half' | 'interleaved';
const SIZE = 64;

/** `turned_name(from, row, i)`: number i of a row whose numbers begin at `from`. */
export function turned(name: string, style: RopeStyle | undefined): string {
  if (style === undefined) return `fn turned_${name}(start: u32, row: u32, i: u32) -> f32 { return arena[start + i]; }`;
  const pair = style === 'half' ? ['(d % half)', 'd >= half', 'half'] : ['(d >> 1u)', '(d & 1u) == 1u', '1u'];
  return `fn turned_${name}(start: u32, row: u32, i: u32) -> f32 {
  let part = P.${name}_part;
  let d = i % part;
  if (d >= P.${name}_dim) { return arena[start + i]; }
  let half = P.${name}_dim / 2u;
  let angle = step[${STEP.sections}u + P.${name}_angles] + (row * half + ${pair[0]}) * 2u;
  let cosine = bitcast<f32>(step[angle]);
  let sine = bitcast<f32>(step[angle + 1u]);
  let here = arena[start + i];
  if (${pair[1]}) { return here * cosine + arena[start + i - ${pair[2]}] * sine; }
  return here * cosine - arena[start + i + ${pair[2]}] * sine;
}`;
}

export const ropeFields = (name: string): Record<string, FieldType> => ({
  [`${name}_part`]: 'u32',
  [`${name}_dim`]: 'u32',
  [`${name}_angles`]: 'u32',
});

/** out = x rotated. An invocation a number. */
export function ropeKernel(style: RopeStyle): Kernel {
  return kernel({
    name: `rope ${style}`,
    fields: { x: 'u32', out: 'u32', width: 'u32', ...ropeFields('x') },
    size: SIZE,
    declarations: turned('x', style),
    body: `
  let i = wx * ${SIZE}u + lid;
  if (i >= P.width) { return; }
  arena[at(P.out) + wid.y * P.width + i] = turned_x(at(P.x) + wid.y * P.width, wid.y, i);`,
  });
}

export interface AppendOptions {
  readonly dtype: StoredFloat;
  /** Queries are rotated, too. */
  readonly q?: RopeStyle | undefined;
  /** Keys are rotated on the way. */
  readonly k?: RopeStyle | undefined;
}

/** Words of a row of `width` numbers. */
export const cacheWords = (width: number, dtype: StoredFloat): number => (dtype === 'f32' ? width : Math.ceil(width / 2));

/**
 * Of one share: rows of k and v into its cache; with `q` also queries. An invocation two numbers of one of them, so that it owns the word of a cache of
 * 16 bits. Grid: (ceil((q + k + v) / 128) in pairs, rows of the share).
 */
export function appendKernel({ dtype, q, k }: AppendOptions): Kernel {
  const fields: Record<string, FieldType> = { k: 'u32', v: 'u32', k_width: 'u32', v_width: 'u32', cache: 'u32', q_pairs: 'u32' };
  if (q) Object.assign(fields, { q: 'u32', q_out: 'u32', q_width: 'u32', ...ropeFields('q') });
  if (k) Object.assign(fields, ropeFields('k'));
  const store =
    dtype === 'f32'
      ? `fn store(to: u32, i: u32, width: u32, a: f32, b: f32) {
  kv[to + i] = bitcast<u32>(a);
  if (i + 1u < width) { kv[to + i + 1u] = bitcast<u32>(b); }
}`
      : `fn store(to: u32, i: u32, width: u32, a: f32, b: f32) {
  kv[to + i / 2u] = ${dtype === 'bf16' ? 'bf16_bits(a) | (bf16_bits(b) << 16u)' : 'pack2x16float(vec2<f32>(round_f16(a), round_f16(b)))'};
}`;
  const words = (width: string): string => (dtype === 'f32' ? width : `((${width} + 1u) / 2u)`);
  return kernel({
    name: `append ${dtype}${q ? ` q ${q}` : ''}${k ? ` k ${k}` : ''}`,
    fields,
    cache: true,
    size: SIZE,
    declarations: [q ? turned('q', q) : '', turned('k', k), store].join('\n'),
    body: `
  let share = step[${STEP.shares}u] + which.x * ${SHARE_WORDS}u;
  let domain = P.k >> 29u;
  let row = step[share + domain] + wid.y;
  let view = step[${STEP.caches}u] + (which.x * step[${STEP.cacheCount}u] + P.cache) * ${CACHE_WORDS}u;
  let to = step[view + 1u] + wid.y;
  let room = step[view + 2u];
  var i = wx * ${SIZE}u + lid;
  ${
    q
      ? `if (i < P.q_pairs) {
    let start = at(P.q) + row * P.q_width;
    let out = at(P.q_out) + row * P.q_width;
    arena[out + 2u * i] = turned_q(start, row, 2u * i);
    if (2u * i + 1u < P.q_width) { arena[out + 2u * i + 1u] = turned_q(start, row, 2u * i + 1u); }
    return;
  }`
      : ''
  }
  i -= P.q_pairs;
  let k_pairs = (P.k_width + 1u) / 2u;
  if (i < k_pairs) {
    let start = at(P.k) + row * P.k_width;
    let other = min(2u * i + 1u, P.k_width - 1u);
    store(to * ${words('P.k_width')}, 2u * i, P.k_width, turned_k(start, row, 2u * i), turned_k(start, row, other));
    return;
  }
  i -= k_pairs;
  if (2u * i >= P.v_width) { return; }
  let start = at(P.v) + row * P.v_width;
  let other = min(2u * i + 1u, P.v_width - 1u);
  store(room * ${words('P.k_width')} + to * ${words('P.v_width')}, 2u * i, P.v_width, arena[start + 2u * i], arena[start + other]);`,
  });
}
