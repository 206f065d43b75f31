// LLM.int8: rows of activations rounded to 8 bits, but for outlier columns. What it computes: packages/core/src/reference/int8.ts.
// Codes of activations are kept as whole numbers in f32; what floating point adds is the columns of outliers alone.

import { type FieldType, type Kernel, kernel, reductions } from './kernel.ts';
import { teams } from './subgroups.ts';
import { signedBytes, type WeightKind, weightFields } from './weight.ts';

const SIZE = 64;

/** flags [inp] = 1 where a row has a magnitude of at least the threshold. A workgroup for 64 columns. */
export function int8FlagsKernel(): Kernel {
  return kernel({
    name: 'int8 flags',
    fields: { x: 'u32', flags: 'u32', inp: 'u32', threshold: 'f32' },
    size: SIZE,
    body: `
  let k = wx * ${SIZE}u + lid;
  if (k >= P.inp) { return; }
  var flag = 0.0;
  let start = at(P.x) + k;
  for (var r = 0u; r < rows_of(P.x); r++) { if (abs(round_f16(arena[start + r * P.inp])) >= P.threshold) { flag = 1.0; } }
  arena[at(P.flags) + k] = flag;`,
  });
}

/** codes [rows, inp], wide [rows, inp] (x in columns of outliers, else 0) and scale [rows]. `shared`: columns are those of `flags`, too. A workgroup a row. */
export function int8RowsKernel({ outliers, shared }: { readonly outliers: boolean; readonly shared: boolean }): Kernel {
  const own = outliers ? 'abs(value) >= P.threshold' : 'false';
  const either = outliers && shared ? `(${own} || arena[at(P.flags) + k] > 0.0)` : own;
  return kernel({
    name: `int8 rows${outliers ? (shared ? ' shared' : ' own') : ''}`,
    fields: { x: 'u32', flags: 'u32', codes: 'u32', wide: 'u32', scale: 'u32', inp: 'u32', threshold: 'f32' },
    size: SIZE,
    declarations: (variant) => reductions(SIZE, variant),
    body: `
  let row = wid.y;
  let start = at(P.x) + row * P.inp;
  var most = 0.0;
  var bad = 0.0;
  for (var k = lid; k < P.inp; k += ${SIZE}u) {
    let value = round_f16(arena[start + k]);
    if (not_a_number(value)) { bad = 1.0; }
    if (!(${own})) { most = max(most, abs(value)); }
  }
  let largest = largest_of_all(most, lid);
  let nan = largest_of_all(bad, lid) > 0.0;
  if (lid == 0u) { arena[at(P.scale) + row] = select(largest, bitcast<f32>(0x7fc00000u + (row & 0u)), nan); }
  let factor = (1.0 / largest) * 127.0;
  for (var k = lid; k < P.inp; k += ${SIZE}u) {
    let x = arena[start + k];
    let value = round_f16(x);
    let outlier = ${either};
    arena[at(P.codes) + row * P.inp + k] = select(round(value * factor), 0.0, outlier || !(largest > 0.0));
    ${outliers ? 'arena[at(P.wide) + row * P.inp + k] = select(0.0, x, outlier);' : ''}
  }`,
  });
}

interface Int8Options {
  readonly outliers: boolean;
  readonly experts: boolean;
}

/** As the products of product.ts, one row of x at a time: sums of codes are exact. */
export function int8ProductKernel(weight: WeightKind, { outliers, experts }: Int8Options): Kernel {
  const lanes = 16;
  const fields: Record<string, FieldType> = { x: 'u32', codes: 'u32', wide: 'u32', scale: 'u32', inp: 'u32', chunks: 'u32' };
  if (experts) Object.assign(fields, { ids: 'u32', slots: 'u32', stride: 'u32', top_k: 'u32' });
  Object.assign(fields, weightFields(0), { out0: 'u32', out0_width: 'u32', out0_at: 'u32' });
  const row = experts ? 'select(wid.y, wid.y / P.top_k, P.top_k > 0u)' : 'wid.y';
  const work = (first: string, next: string): string => `  var whole = 0;
  var rest = 0.0;
  if (row < P.w0_out) {
    for (var n = ${first}; n < P.chunks * 8u; n += ${next}) {
      let bits = word_0(base + row * P.w0_row_words + n);
      let q = ${signedBytes('bits')};
      for (var j = 0u; j < 4u; j++) {
        let k = n * 4u + j;
        if (k < P.inp) {
          whole += q[j] * i32(arena[codes + k]);
          ${outliers ? 'rest += arena[wide + k] * f32(q[j]);' : ''}
        }
      }
    }
  }`;
  const sideBySide = `${work('lane', `${lanes}u`)}
  exact[lid] = whole;
  inexact[lid] = rest;
  workgroupBarrier();`;
  const inTeams = `  let team = team_of(lid);
  for (var turn = 0u; turn < 4u; turn++) {
    let place = turn * team.teams + team.index;
    let mine = team.index < team.teams && place < 4u;
    let row = select(0xffffffffu, wx * 4u + place, mine);
  ${work('team.rank * team.split + team.part', 'team.width * team.split')}
    workgroupBarrier();
    let together = subgroupAdd(whole);
    let together_wide = subgroupAdd(rest);
    if (mine && team.rank == 0u) {
      exact[place * ${lanes}u + team.part] = together;
      inexact[place * ${lanes}u + team.part] = together_wide;
    }
  }
  workgroupBarrier();
  let row = wx * 4u + lid / ${lanes}u;`;
  return kernel({
    name: `int8 product${outliers ? ' outliers' : ''}${experts ? ' experts' : ''}${weight.bias ? ' bias' : ''}`,
    fields,
    weights: 1,
    size: SIZE,
    declarations: ({ subgroups }) => `
fn word_0(n: u32) -> u32 { return w0[n >> 2u][n & 3u]; }
${subgroups ? teams(SIZE, 4) : ''}
var<workgroup> exact: array<i32, ${SIZE}>;
var<workgroup> inexact: array<f32, ${SIZE}>;`,
    body: ({ subgroups }) => `
  let lane = lid % ${lanes}u;
${subgroups ? '' : `  let row = wx * 4u + lid / ${lanes}u;`}
  ${
    experts
      ? `let slot = constants[P.slots + u32(arena[at(P.ids) + wid.y])];
  let base = u32(max(slot, 0.0)) * P.stride;`
      : 'let base = 0u;'
  }
  let r = ${row};
  let codes = at(P.codes) + r * P.inp;
  let wide = at(P.wide) + r * P.inp;
${subgroups ? inTeams : sideBySide}
  if (lane != 0u || row >= P.w0_out${experts ? ' || slot < 0.0' : ''}) { return; }
  ${
    subgroups
      ? `var whole = 0;
  var rest = 0.0;
  for (var l = 0u; l < team.split; l++) { whole += exact[lid + l]; rest += inexact[lid + l]; }`
      : `for (var l = 1u; l < ${lanes}u; l++) { whole += exact[lid + l]; rest += inexact[lid + l]; }`
  }
  let scale = bitcast<f32>(word_0(base + P.w0_scale + row));
  var sum = f32(whole) * arena[at(P.scale) + r] * scale * (1.0 / 16129.0);
  ${outliers ? 'sum += rest * scale * 0.007874015748031496;' : ''}
  ${weight.bias ? 'sum += bitcast<f32>(word_0(base + P.w0_bias + row));' : ''}
  arena[at(P.out0) + wid.y * P.out0_width + P.out0_at + row] = sum;`,
  });
}
