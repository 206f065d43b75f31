// Kernels of HIGGS' routine: packages/higgs/src/code-blocks.ts and nearest.ts, operation by operation, in the arithmetic of exact.ts. Scales and sums are taken
// in the order of the weights, a block an invocation; what is between them a block a workgroup.

import type { StoredFloat } from '../layout.ts';
import { EXACT } from './exact.ts';
import { type Kernel, kernel } from './kernel.ts';
import { exactKernel, weightReader } from './quantize.ts';

const SIZE = 64;
/** Numbers of a block lie in workgroup memory. */
export const MOST_BLOCK = 4096;

/** Block `b` of the run: how many weights it has, and the first. The run begins in column `column` (in blocks) of a row. */
const BLOCK = `
fn count_of(b: u32) -> u32 { return min(P.block, P.inp - ((P.column + b) % P.per_row) * P.block); }
fn first_of(b: u32) -> u32 {
  let all = P.column + b;
  return (all / P.per_row) * P.inp + (all % P.per_row) * P.block - P.column * P.block;
}`;
const BLOCK_FIELDS = ['weights', 'inp', 'block', 'per_row', 'column'] as const;

const round = (dtype: StoredFloat, x: string): string => ({ f32: x, f16: `to_f16(${x})`, bf16: `to_bf16(${x})` })[dtype];

/** norm and scale [blocks], squares f64 [blocks]: the scale is infinite where it does not fit, NaN where a weight is not finite. */
export function higgsScaleKernel(dtype: StoredFloat, scale: StoredFloat): Kernel {
  return exactKernel(
    `exact higgs scale ${dtype} ${scale}`,
    [...BLOCK_FIELDS, 'root', 'farthest', 'norms', 'scales', 'squares'],
    `${weightReader(dtype)}\n${BLOCK}`,
    `
  let start = first_of(n);
  var squares = D(0u, 0, 0u, 0u);
  var finite = true;
  for (var i = 0u; i < count_of(n); i++) {
    let w = weight(start + i);
    finite = finite && is_finite(w);
    let x = d_of(w);
    squares = d_add(squares, d_mul(x, x));
  }
  let norm = f_of(d_sqrt(squares));
  var scale = ${round(scale, 'f_div(norm, P.root)')};
  let farthest = ${round(scale, 'f_mul(scale, P.farthest)')};
  let longest = d_mul(d_of(norm), d_int(i32(P.block)));
  if (!is_finite(norm) || !is_finite(scale) || !is_finite(farthest) || longest.e >= 127) { scale = INFINITE; }
  kv[P.norms + n] = norm;
  kv[P.scales + n] = select(NAN, scale, finite);
  let bits = d_to64(squares);
  kv[P.squares + 2u * n] = bits.y;
  kv[P.squares + 2u * n + 1u] = bits.x;`,
  );
}

/** Transforms the `P.block` numbers in `run`. */
const HADAMARD = `
fn transform(lid: u32) {
  for (var half = 1u; half < P.block; half = half << 1u) {
    workgroupBarrier();
    for (var i = lid; i < P.block / 2u; i += ${SIZE}u) {
      let a = (i / half) * half * 2u + i % half;
      let x = run[a];
      let y = run[a + half];
      run[a] = f_add(x, y);
      run[a + half] = f_sub(x, y);
    }
  }
  workgroupBarrier();
}`;

/**
 * Codes of blocks, four a word (fewer where a block has fewer), and magnitudes of errors, f64 in the order of the weights. The nearest point is that of the
 * definition: scores in f32, as inexact as they may be, leave most points out, those of the rest are exact.
 */
export function higgsCodeKernel(dtype: StoredFloat, scale: StoredFloat, dim: 1 | 2): Kernel {
  const pair = dim === 2;
  const exact = pair
    ? 'f_add(f_mul(f_add(x, x), step[P.points + 2u * c]), f_mul(f_add(y, y), step[P.points + 2u * c + 1u]))'
    : 'f_mul(f_add(x, x), step[P.points + c])';
  const near = pair
    ? '2.0 * (fx * bitcast<f32>(step[P.points + 2u * c]) + fy * bitcast<f32>(step[P.points + 2u * c + 1u]))'
    : '2.0 * fx * bitcast<f32>(step[P.points + c])';
  return kernel({
    name: `exact higgs code ${dtype} ${scale} ${dim}`,
    fields: Object.fromEntries(
      [
        ...[...BLOCK_FIELDS, 'count', 'points', 'point_norms', 'stored', 'size', 'reach', 'inverse_high', 'inverse_low'],
        ...['norms', 'scales', 'codes', 'errors'],
      ].map((field) => [field, 'u32' as const]),
    ),
    cache: true,
    size: SIZE,
    declarations: `${EXACT}
${weightReader(dtype)}
${BLOCK}
var<workgroup> run: array<u32, ${MOST_BLOCK}>;
${HADAMARD}
fn score(x: u32, y: u32, c: u32) -> u32 { return f_sub(${exact}, step[P.point_norms + c]); }
fn guess(fx: f32, fy: f32, c: u32) -> f32 { return ${near} - bitcast<f32>(step[P.point_norms + c]); }
fn nearest(x: u32, y: u32) -> u32 {
  let fx = bitcast<f32>(x);
  let fy = bitcast<f32>(y);
  var most = guess(fx, fy, 0u);
  for (var c = 1u; c < P.size; c++) { most = max(most, guess(fx, fy, c)); }
  // A hundred times what a score can be off.
  let margin = 1e-4 * bitcast<f32>(P.reach) * (1.0 + abs(fx) + abs(fy));
  var best = 0u;
  var highest = 0xff800000u;
  for (var c = 0u; c < P.size; c++) {
    if (guess(fx, fy, c) < most - margin) { continue; }
    let exact = score(x, y, c);
    if (above(exact, highest)) { highest = exact; best = c; }
  }
  return best;
}`,
    body: `
  let b = wx;
  if (b >= P.count) { return; }
  let start = first_of(b);
  let count = count_of(b);
  let norm = kv[P.norms + b];
  let scale = kv[P.scales + b];
  let vectors = P.block / ${dim}u;
  let per_word = min(4u, vectors);
  let words = vectors / per_word;
  let live = is_finite(scale) && norm != 0u;
  for (var i = lid; i < P.block; i += ${SIZE}u) { run[i] = select(0u, weight(start + min(i, count - 1u)), i < count && live); }
  transform(lid);
  for (var i = lid; i < words; i += ${SIZE}u) {
    var word = 0u;
    for (var k = 0u; k < per_word; k++) {
      let v = (i * per_word + k) * ${dim}u;
      if (!live) { continue; }
      let code = nearest(f_div(run[v], norm), ${pair ? 'f_div(run[v + 1u], norm)' : '0u'});
      word |= code << (8u * k);
      run[v] = ${round(scale, `f_mul(step[P.stored + ${dim}u * code], scale)`)};
      ${pair ? `run[v + 1u] = ${round(scale, 'f_mul(step[P.stored + 2u * code + 1u], scale)')};` : ''}
    }
    kv[P.codes + b * words + i] = word;
  }
  transform(lid);
  for (var i = lid; i < count; i += ${SIZE}u) {
    var e = D(0u, 0, 0u, 0u);
    if (live) { e = d_sub(d_of(weight(start + i)), d_mul(d_of(run[i]), d_of64(P.inverse_high, P.inverse_low))); }
    e.neg = 0u;
    let bits = d_to64(e);
    kv[P.errors + 2u * (start + i)] = bits.y;
    kv[P.errors + 2u * (start + i) + 1u] = bits.x;
  }`,
  });
}

/** Squared errors and the largest error of each block, f64 [2, blocks]. */
export function higgsSumKernel(): Kernel {
  return exactKernel(
    'exact higgs sums',
    [...BLOCK_FIELDS, 'errors', 'sums'],
    BLOCK,
    `
  let start = first_of(n);
  var sum = D(0u, 0, 0u, 0u);
  var most = vec2<u32>(0u);
  for (var i = 0u; i < count_of(n); i++) {
    let bits = vec2<u32>(kv[P.errors + 2u * (start + i) + 1u], kv[P.errors + 2u * (start + i)]);
    if (less64(most, bits)) { most = bits; }
    let e = d_of64(bits.x, bits.y);
    sum = d_add(sum, d_mul(e, e));
  }
  let total = d_to64(sum);
  kv[P.sums + 2u * n] = total.y;
  kv[P.sums + 2u * n + 1u] = total.x;
  kv[P.sums + 2u * (P.count + n)] = most.y;
  kv[P.sums + 2u * (P.count + n) + 1u] = most.x;`,
  );
}
