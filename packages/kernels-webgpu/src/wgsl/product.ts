// out = x W^T for few rows of x. 16 invocations share a row of a weight, 4 rows of weights a workgroup; each weight is read once for `rows` rows of x.
// Where there are subgroups, they share the rows instead (subgroups.ts).
//
// Options fuse what stands before and after: up to three weights of one x, a norm of x, a residual, a gated activation.

import { ACTIVATED } from './floats.ts';
import { type FieldType, type Kernel, kernel, reductions, type Variant } from './kernel.ts';
import { teams } from './subgroups.ts';
import { kindName, tableCode, type WeightKind, weightCode, weightFields } from './weight.ts';

export const PRODUCT = { size: 64, lanes: 16, rows: 4 } as const;

export interface FusedNorm {
  readonly kind: 'rms' | 'layer';
  readonly weight: boolean;
  readonly bias: boolean;
}

export interface ProductOptions {
  /** Rows of x at a time. */
  readonly rows: number;
  readonly weights: readonly WeightKind[];
  readonly norm?: FusedNorm | undefined;
  /** store; add: out = a residual + b product; gate: act(weight 0) * weight 1. */
  readonly end: 'store' | 'add' | { readonly gate: keyof typeof ACTIVATED };
  /** Rows are chosen by expert: `slots` says where in the weight's buffer an expert is. */
  readonly experts?: boolean;
}

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

function endName(end: ProductOptions['end']): string {
  return typeof end === 'string' ? end : `gate ${end.gate}`;
}

/** Four numbers of x as products read them: 0 beyond the inputs, normalised where asked for. */
function xCode(tail: boolean, norm: FusedNorm | undefined): string {
  const load = (k: number): string => {
    const at = k === 0 ? 'k' : `k + ${k}u`;
    return tail ? `select(0.0, arena[start + min(${at}, P.inp - 1u)], ${at} < P.inp)` : `arena[start + ${at}]`;
  };
  const quad = `vec4<f32>(${[0, 1, 2, 3].map(load).join(', ')})`;
  if (!norm) return `fn x_quad(start: u32, k: u32) -> vec4<f32> { return ${quad}; }`;
  const constant = (name: string): string => `vec4<f32>(${[0, 1, 2, 3].map((k) => `constants[P.${name} + k + ${k}u]`).join(', ')})`;
  const weight = norm.weight ? ` * (${constant('norm_weight')} + P.norm_offset)` : '';
  const bias = norm.bias ? ` + ${constant('norm_bias')}` : '';
  return `fn x_quad(start: u32, k: u32, mean: f32, factor: f32) -> vec4<f32> { return (${quad} - mean) * factor${weight}${bias}; }`;
}

function normCode(norm: FusedNorm, n: number): string {
  const mean =
    norm.kind === 'layer'
      ? `
  var sum${n} = 0.0;
  for (var k = lid; k < P.inp; k += ${PRODUCT.size}u) { sum${n} += arena[x${n} + k]; }
  let mean${n} = sum_of_all(sum${n}, lid) / f32(P.inp);`
      : `
  let mean${n} = 0.0;`;
  return `${mean}
  var squares${n} = 0.0;
  for (var k = lid; k < P.inp; k += ${PRODUCT.size}u) { let d = arena[x${n} + k] - mean${n}; squares${n} += d * d; }
  let factor${n} = 1.0 / sqrt(sum_of_all(squares${n}, lid) / f32(P.inp) + P.eps);`;
}

export function productKernel(options: ProductOptions): Kernel {
  const { rows, weights, norm, end, experts = false } = options;
  const { size } = PRODUCT;
  const gated = typeof end !== 'string';
  const tail = weights.some((weight) => weight.tail);
  const fields: Record<string, FieldType> = { x: 'u32', inp: 'u32', chunks: 'u32' };
  if (norm) Object.assign(fields, { eps: 'f32', norm_weight: 'u32', norm_offset: 'f32', norm_bias: 'u32' });
  if (end === 'add') Object.assign(fields, { residual: 'u32', residual_factor: 'f32', factor: 'f32' });
  if (experts) Object.assign(fields, { ids: 'u32', slots: 'u32', stride: 'u32', top_k: 'u32' });
  for (const i of range(weights.length)) Object.assign(fields, weightFields(i));
  for (const i of range(gated ? 1 : weights.length))
    Object.assign(fields, { [`out${i}`]: 'u32', [`out${i}_width`]: 'u32', [`out${i}_at`]: 'u32' });
  const partials = gated ? ['partial', 'partial_others'] : ['partial'];
  return kernel({
    name: `product x${rows}${experts ? ' experts' : ''}${norm ? ` ${norm.kind}` : ''} ${endName(end)}: ${weights.map(kindName).join(' | ')}`,
    fields,
    weights: weights.length,
    size,
    declarations: (variant) =>
      [
        ...weights.map((weight, i) => weightCode(i, weight, variant)),
        xCode(tail, norm),
        gated ? `fn activated(x: f32) -> f32 { return ${ACTIVATED[end.gate]}; }` : '',
        norm ? reductions(size, variant) : '',
        variant.subgroups ? teams(size, PRODUCT.rows) : '',
        ...partials.map((name) => `var<workgroup> ${name}: array<f32, ${rows * size}>;`),
      ].join('\n'),
    body: (variant) => productBody(options, variant),
  });
}

function productBody({ rows, weights, norm, end, experts = false }: ProductOptions, { subgroups }: Variant): string {
  const { size, lanes } = PRODUCT;
  const gated = typeof end !== 'string';
  const [first, next] = subgroups ? ['team.rank * team.split + team.part', 'team.width * team.split'] : ['lane', `${lanes}u`];
  const quad = (n: number): string => `x_quad(x${n}, k${norm ? `, mean${n}, factor${n}` : ''})`;
  const accumulate = (i: number, into: string): string => `
    for (var c = ${first}; c < P.chunks; c += ${next}) {
      var w = chunk_${i}(base, row - first, c);
      for (var j = 0u; j < 8u; j++) {
        let k = c * 32u + j * 4u;
${range(rows)
  .map((n) => `        ${into}[${n}] += dot(w[j], ${quad(n)});`)
  .join('\n')}
      }
    }`;
  // Which weight a row of the concatenation belongs to.
  const parts = range(weights.length).map((i) => {
    const before =
      range(i)
        .map((j) => `P.w${j}_out`)
        .join(' + ') || '0u';
    return `${i > 0 ? ' else ' : '  '}if (row < ${before} + P.w${i}_out) {
    let first = ${before};${accumulate(i, 'sums')}
  }`;
  });
  const both = `  if (row < P.w0_out) {
    let first = 0u;${accumulate(0, 'sums')}${accumulate(1, 'others')}
  }`;
  const work = gated ? both : parts.join('');
  const sums = gated ? ['sums', 'others'] : ['sums'];
  const partials = gated ? ['partial', 'partial_others'] : ['partial'];
  const declared = sums.map((name) => `  var ${name}: array<f32, ${rows}>;`).join('\n');
  // In a loop 0 is written out: without it SwiftShader goes on with the sums of the turn before.
  const cleared = sums.map((name) => `    var ${name} = array<f32, ${rows}>();`).join('\n');
  const sideBySide = (): string => `
${declared}
${work}
  workgroupBarrier();
${partials
  .map((to, i) =>
    range(rows)
      .map((n) => `  ${to}[${n} * ${size} + lid] = ${sums[i]}[${n}];`)
      .join('\n'),
  )
  .join('\n')}
  workgroupBarrier();`;
  const inTeams = (): string => `
  let team = team_of(lid);
  for (var turn = 0u; turn < ${PRODUCT.rows}u; turn++) {
    let place = turn * team.teams + team.index;
    let mine = team.index < team.teams && place < ${PRODUCT.rows}u;
    let row = select(0xffffffffu, wx * ${PRODUCT.rows}u + place, mine);
${cleared}
${work}
    workgroupBarrier();
${partials
  .map((to, i) =>
    range(rows)
      .map(
        (n) => `    let ${to}${n} = subgroupAdd(${sums[i]}[${n}]);
    if (mine && team.rank == 0u) { ${to}[${n * size}u + place * ${lanes}u + team.part] = ${to}${n}; }`,
      )
      .join('\n'),
  )
  .join('\n')}
  }
  workgroupBarrier();
  let row = wx * ${PRODUCT.rows}u + lid / ${lanes}u;`;
  const total = (name: string, from: string): string =>
    subgroups
      ? `var ${name} = 0.0;
    for (var p = 0u; p < team.split; p++) { ${name} += ${from}[start + p]; }`
      : `let ${name} = ${range(lanes)
          .map((l) => `${from}[start + ${l}u]`)
          .join(' + ')};`;
  const store = (i: number, before: string, sum: string): string => {
    const to = `at(P.out${i}) + r * P.out${i}_width + P.out${i}_at + row - (${before})`;
    const biased = `${sum} + bias_${i}(base, row - (${before}))`;
    if (end !== 'add') return `arena[${to}] = ${biased};`;
    return `let to = ${to};
      arena[to] = P.residual_factor * arena[at(P.residual) + to - at(P.out${i})] + P.factor * (${biased});`;
  };
  const stores = gated
    ? `arena[at(P.out0) + r * P.out0_width + P.out0_at + row] = activated(sum + bias_0(base, row)) * (sum_others + bias_1(base, row));`
    : range(weights.length)
        .map((i) => {
          const before =
            range(i)
              .map((j) => `P.w${j}_out`)
              .join(' + ') || '0u';
          return `${i > 0 ? ' else ' : ''}if (row < ${before} + P.w${i}_out) {
      ${store(i, before, 'sum')}
    }`;
        })
        .join('');
  const all = gated
    ? 'P.w0_out'
    : range(weights.length)
        .map((i) => `P.w${i}_out`)
        .join(' + ');
  return `
  let lane = lid % ${lanes}u;
${subgroups ? '' : `  let row = wx * ${PRODUCT.rows}u + lid / ${lanes}u;`}
${
  experts
    ? `  let r0 = wid.y;
  let slot = constants[P.slots + u32(arena[at(P.ids) + r0])];
  let base = u32(max(slot, 0.0)) * P.stride;
  let x0 = at(P.x) + select(r0, r0 / P.top_k, P.top_k > 0u) * P.inp;`
    : `  let base = 0u;
  let count = rows_of(P.x);
${range(rows)
  .map((n) => `  let r${n} = min(wid.y * ${rows}u + ${n}u, count - 1u);\n  let x${n} = at(P.x) + r${n} * P.inp;`)
  .join('\n')}`
}
${weights.map((weight, i) => tableCode(i, weight, { size, base: 'base' })).join('')}
${
  norm
    ? range(rows)
        .map((n) => normCode(norm, n))
        .join('')
    : ''
}
${subgroups ? inTeams() : sideBySide()}
  // Invocation n of each row folds the sums of row n of x.
  for (var n = lane; n < ${rows}u; n += ${lanes}u) {
    let r = ${experts ? 'wid.y' : `wid.y * ${rows}u + n`};
    if (row >= ${all} || r >= ${experts ? 'r + 1u' : 'count'}) { continue; }
    ${experts ? 'if (slot < 0.0) { continue; }' : ''}
    let start = n * ${size}u + lid / ${lanes}u * ${lanes}u;
    ${total('sum', 'partial')}
    ${gated ? total('sum_others', 'partial_others') : ''}
    ${stores}
  }`;
}
