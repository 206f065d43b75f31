// Attention of many rows of a share: a workgroup a tile of rows and a head, four rows an invocation. Keys come in tiles, an invocation a key for its four rows, then
// a channel for the sums of all of them: a key or value that was read serves all rows of the tile. Sums are scaled as those of attention.ts are.

import { type AttentionOptions, attentionFields, attentionName, cacheReader, keyPlaces } from './attention.ts';
import { type Kernel, kernel, STEP } from './kernel.ts';

const SIZE = 64;
const ROWS = 4;

/** Rows of a tile: queries of all of them lie in 8 KiB of workgroup memory. 1 where that is not possible. */
export function rowsOfTile({ keyDim, valueDim }: Pick<AttentionOptions, 'keyDim' | 'valueDim'>): number {
  const dim = Math.max(keyDim, valueDim);
  return dim <= 128 ? 16 : dim <= 256 ? 8 : dim <= 512 ? 4 : 1;
}

export function tiledAttentionKernel(options: AttentionOptions): Kernel {
  const { keyDim, valueDim, cache, causal, window, softcap, bias } = options;
  const tile = rowsOfTile(options);
  /** Fours of rows. */
  const fours = tile / ROWS;
  const keys = SIZE / fours;
  const channels = Math.ceil(valueDim / SIZE);
  const each = (body: (four: number, n: number) => string): string =>
    Array.from({ length: fours * channels }, (_, i) => body(i % fours, Math.floor(i / fours))).join('\n');
  const fold = (join: (a: string, b: string) => string): string => `
    for (var half = ${SIZE / 2}u; half >= ${fours}u; half = half >> 1u) {
      workgroupBarrier();
      if (lid < half) { reduced[lid] = ${join('reduced[lid]', 'reduced[lid + half]')}; }
    }
    workgroupBarrier();`;
  const added = (sum: string, share: string): string =>
    `        if (finite || all(${share} != vec4<f32>(0.0))) { ${sum} += ${share} * value; }
        else { ${sum} += select(vec4<f32>(0.0), ${share} * value, ${share} != vec4<f32>(0.0)); }`;
  return kernel({
    name: `attention tiles ${attentionName(options)}`,
    fields: attentionFields(options),
    cache: true,
    size: SIZE,
    declarations: `${cacheReader(cache)}
var<workgroup> query: array<vec4<f32>, ${keyDim * fours}>;
var<workgroup> reduced: array<vec4<f32>, ${SIZE}>;
var<workgroup> shares: array<vec4<f32>, ${SIZE}>;
var<workgroup> largest: array<vec4<f32>, ${fours}>;
var<workgroup> totals: array<vec4<f32>, ${fours}>;
var<workgroup> shrink: array<vec4<f32>, ${fours}>;`,
    body: `
  let head = wid.x;${keyPlaces(options)}
  let rows = step[share + 4u + domain];
  let first = wid.y * ${tile}u;
  let last = min(rows, first + ${tile}u) - 1u;
  let positions = step[${STEP.positions}u + domain] + step[share + domain];
  // What the rows of the tile see of the keys, all together.
  var begin = count;
  var end = 0u;
  for (var r = first; r <= last; r++) {
    let mine = step[positions + r] - min(step[positions + r], first_position);
    end = max(end, ${causal ? 'min(count, mine + 1u)' : 'count'});
    begin = min(begin, ${window ? 'select(0u, mine + 1u - P.window, mine + 1u > P.window)' : '0u'});
  }
  let four = lid % ${fours}u;
  let key = lid / ${fours}u;
  // Of the four rows of this invocation; those past the end are as the last one.
  var mine: vec4<u32>;
  for (var m = 0u; m < 4u; m++) {
    let position = step[positions + min(last, first + 4u * four + m)];
    mine[m] = position - min(position, first_position);
  }
  let ends = ${causal ? 'min(vec4<u32>(count), mine + 1u)' : 'vec4<u32>(count)'};
  let begins = ${window ? 'select(vec4<u32>(0u), mine + 1u - P.window, mine + 1u > vec4<u32>(P.window))' : 'vec4<u32>(0u)'};
  for (var i = lid; i < ${keyDim * fours}u; i += ${SIZE}u) {
    var value: vec4<f32>;
    for (var m = 0u; m < 4u; m++) {
      let row = step[share + domain] + min(last, first + 4u * (i % ${fours}u) + m);
      value[m] = arena[at(P.q) + (row * P.heads + head) * ${keyDim}u + i / ${fours}u];
    }
    query[i] = value * P.scale;
  }
  if (lid < ${fours}u) {
    largest[lid] = vec4<f32>(-3.0e38);
    totals[lid] = vec4<f32>(0.0);
  }
${each((f, n) => `  var sum${n}_${f} = vec4<f32>(0.0);`)}
  workgroupBarrier();
  for (var from_key = begin; from_key < end; from_key += ${keys}u) {
    let j = from_key + key;
    let seen = (vec4<u32>(j) < ends) & (vec4<u32>(j) >= begins) & vec4<bool>(j < end);
    var score = vec4<f32>(0.0);
    if (j < end) {
      let start = keys + j * k_words;
      for (var i = 0u; i < ${keyDim}u; i++) { score += query[i * ${fours}u + four] * stored(start, kv_head * ${keyDim}u + i); }
      ${softcap ? 'for (var m = 0u; m < 4u; m++) { score[m] = P.cap * tanh_of(score[m] / P.cap); }' : ''}
      ${bias === 'alibi' ? 'score += constants[P.bias + head] * vec4<f32>(vec4<i32>(i32(j)) - vec4<i32>(mine));' : ''}
      ${
        bias === 'relative'
          ? 'for (var m = 0u; m < 4u; m++) { score[m] += constants[P.bias + u32(clamp(i32(j) - i32(mine[m]), -i32(P.reach), i32(P.reach)) + i32(P.reach)) * P.heads + head]; }'
          : ''
      }
    }
    reduced[lid] = select(vec4<f32>(-3.0e38), score, seen);${fold((a, b) => `max(${a}, ${b})`)}
    let most = max(largest[four], reduced[four]);
    workgroupBarrier();
    let mine_share = select(vec4<f32>(0.0), exp(score - most), seen);
    shares[lid] = mine_share;
    reduced[lid] = mine_share;${fold((a, b) => `${a} + ${b}`)}
    if (lid < ${fours}u) {
      shrink[lid] = exp(largest[lid] - most);
      totals[lid] = totals[lid] * shrink[lid] + reduced[lid];
      largest[lid] = most;
    }
    workgroupBarrier();
    let here = min(${keys}u, end - from_key);
${Array.from(
  { length: channels },
  (_, n) => `    if (lid + ${n * SIZE}u < ${valueDim}u) {
${Array.from({ length: fours }, (__, f) => `      sum${n}_${f} *= shrink[${f}];`).join('\n')}
      for (var t = 0u; t < here; t++) {
        let value = stored(values + (from_key + t) * v_words, kv_head * ${valueDim}u + lid + ${n * SIZE}u);
        // NaN or infinity: rows that do not see it must not multiply it by their 0.
        let finite = (bitcast<u32>(value) & 0x7f800000u) != 0x7f800000u;
${Array.from({ length: fours }, (__, f) => added(`sum${n}_${f}`, `shares[t * ${fours}u + ${f}u]`)).join('\n')}
      }
    }`,
).join('\n')}
    workgroupBarrier();
  }
${each(
  (f, n) => `  if (lid + ${n * SIZE}u < ${valueDim}u) {
    for (var m = 0u; m < 4u; m++) {
      let r = first + ${4 * f}u + m;
      let out = at(P.out) + ((step[share + domain] + r) * P.heads + head) * ${valueDim}u + lid + ${n * SIZE}u;
      if (r <= last) { arena[out] = select(0.0, sum${n}_${f}[m] / totals[${f}][m], totals[${f}][m] > 0.0); }
    }
  }`,
)}`,
  });
}
