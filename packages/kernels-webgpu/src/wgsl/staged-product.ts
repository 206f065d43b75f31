// out = x W^T for one row of x at a time, where weights do not take x as it is: rotated into their basis (HIGGS), or rounded to 8 bits (LLM.int8). Every workgroup
// makes it for itself in workgroup memory, a piece at a time, and multiplies 32 rows of weights by it: so nothing stands between what gives x and the products.
//
// 16 invocations share a row of a weight, and go on with others. What stands before and after is fused as in product.ts: several weights of one x, a norm, a residual, a gate.

import { ACTIVATED } from './floats.ts';
import { type FieldType, type Kernel, kernel } from './kernel.ts';
import type { FusedNorm, ProductOptions } from './product.ts';
import { dotsCode, kindName, signedBytes, tableCode, weightCode, weightFields } from './weight.ts';

export const STAGED = {
  size: 64,
  lanes: 16,
  /** Of weights, a workgroup. */
  rows: 32,
  /** Inputs that are made at a time: 4 KiB. */
  piece: 1024,
} as const;

export type Stage =
  /** Filled up with zeros and multiplied by the normalised Hadamard matrix in runs of 4 to `piece`. */
  | { readonly kind: 'rotate'; readonly run: number }
  /** As packages/core/src/reference/int8.ts rounds a row; columns of outliers are those of this row. */
  | { readonly kind: 'int8'; readonly outliers: boolean };

export interface StagedOptions extends Pick<ProductOptions, 'weights' | 'norm' | 'end' | 'experts'> {
  readonly stage: Stage;
}

const { size: SIZE, lanes: LANES, rows: ROWS, piece: PIECE } = STAGED;
/** Rows of weights at a time. */
const TURN = SIZE / LANES;
const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

/** Sum and largest of a number of each invocation, the same for all, by three barriers. */
function reductions(): string {
  const fold = (name: string, join: (a: string, b: string) => string): string => `
fn ${name}(mine: f32, lid: u32) -> f32 {
  workgroupBarrier();
  reduced[lid] = mine;
  workgroupBarrier();
  if (lid < ${LANES}u) {
    var part = reduced[lid];
    for (var i = lid + ${LANES}u; i < ${SIZE}u; i += ${LANES}u) { part = ${join('part', 'reduced[i]')}; }
    folded[lid] = part;
  }
  workgroupBarrier();
  var all = folded[0];
  for (var i = 1u; i < ${LANES}u; i++) { all = ${join('all', 'folded[i]')}; }
  return all;
}`;
  return `
var<workgroup> reduced: array<f32, ${SIZE}>;
var<workgroup> folded: array<f32, ${LANES}>;${fold('sum_of_all', (a, b) => `${a} + ${b}`)}${fold('largest_of_all', (a, b) => `max(${a}, ${b})`)}`;
}

/** Number k of x, normalised where asked for. */
function xCode(norm: FusedNorm | undefined): string {
  const factors = norm ? `(arena[start + k] - mean) * factor` : 'arena[start + k]';
  const weight = norm?.weight ? '\n  y *= constants[P.norm_weight + k] + P.norm_offset;' : '';
  const bias = norm?.bias ? '\n  y += constants[P.norm_bias + k];' : '';
  return `fn x_of(start: u32, k: u32, mean: f32, factor: f32) -> f32 {
  var y = ${factors};${weight}${bias}
  return y;
}`;
}

function normBody(norm: FusedNorm | undefined): string {
  if (!norm) return '\n  let mean = 0.0;\n  let factor = 1.0;';
  const mean =
    norm.kind === 'layer'
      ? `
  var sum_x = 0.0;
  for (var k = lid; k < P.features; k += ${SIZE}u) { sum_x += arena[x0 + k]; }
  let mean = sum_of_all(sum_x, lid) / f32(P.features);`
      : '\n  let mean = 0.0;';
  return `${mean}
  var squares = 0.0;
  for (var k = lid; k < P.features; k += ${SIZE}u) { let d = arena[x0 + k] - mean; squares += d * d; }
  let factor = 1.0 / sqrt(sum_of_all(squares, lid) / f32(P.features) + P.eps);`;
}

/** What is left of log2(run) after the two steps inside of a quad, up to 8 quads at a time. */
function passes(run: number): number[] {
  const steps = Math.log2(run) - 2;
  const count = Math.max(1, Math.ceil(steps / 3));
  return range(count).map((i) => Math.floor((steps + i) / count));
}

/** A piece of x, rotated, into `staged`. Additions are those of hadamard.ts in its order, so the bytes are the same. */
function rotation(run: number): string {
  let done = 0;
  const list = passes(run);
  return list
    .map((steps, pass) => {
      const [width, stride] = [2 ** steps, 2 ** done];
      const place = (e: number): string => (e === 0 ? 'place' : `place + ${e * stride}u`);
      const lines = range(width).map((e) =>
        pass === 0 ? `var a${e} = turned_quad(x0, piece + 4u * (${place(e)}), mean, factor);` : `var a${e} = staged[${place(e)}];`,
      );
      for (let half = 1; half < width; half *= 2) {
        for (const e of range(width).filter((n) => (n & half) === 0)) {
          const other = e + half;
          lines.push(`{ let x = a${e}; let y = a${other}; a${e} = x + y; a${other} = x - y; }`);
        }
      }
      const last = pass === list.length - 1;
      lines.push(...range(width).map((e) => `staged[${place(e)}] = a${e}${last ? ` * ${1 / Math.sqrt(run)}` : ''};`));
      done += steps;
      return `${pass === 0 ? '' : '\n    workgroupBarrier();'}
    for (var t = lid; t < quads / ${width}u; t += ${SIZE}u) {
      let place = ((t / ${stride}u) * ${width * stride}u) + t % ${stride}u;
      ${lines.join('\n      ')}
    }`;
    })
    .join('');
}

const ROTATED_QUAD = `
fn filled(start: u32, k: u32, mean: f32, factor: f32) -> f32 { return select(0.0, x_of(start, min(k, P.features - 1u), mean, factor), k < P.features); }
fn turned_quad(start: u32, k: u32, mean: f32, factor: f32) -> vec4<f32> {
  let a = filled(start, k, mean, factor);
  let b = filled(start, k + 1u, mean, factor);
  let c = filled(start, k + 2u, mean, factor);
  let d = filled(start, k + 3u, mean, factor);
  return vec4<f32>((a + b) + (c + d), (a - b) + (c - d), (a + b) - (c + d), (a - b) - (c - d));
}`;

/** The scale of the row, and whether it has outliers. */
function int8Scale(outliers: boolean): string {
  return `
  var most = 0.0;
  var bad = 0.0;${outliers ? '\n  var above = 0.0;' : ''}
  for (var k = lid; k < P.features; k += ${SIZE}u) {
    let value = round_f16(x_of(x0, k, mean, factor));
    if (not_a_number(value)) { bad = 1.0; }
    ${outliers ? 'if (abs(value) >= P.threshold) { above = 1.0; } else { most = max(most, abs(value)); }' : 'most = max(most, abs(value));'}
  }
  let largest = largest_of_all(most, lid);
  let scale_x = select(largest, bitcast<f32>(0x7fc00000u + (lid & 0u)), largest_of_all(bad, lid) > 0.0);
  let to_codes = (1.0 / largest) * 127.0;${outliers ? '\n  let any = largest_of_all(above, lid) > 0.0;' : ''}`;
}

/** A piece of x in codes, and bits of its outliers: their codes are 0. */
function int8Codes(outliers: boolean): string {
  return `
    for (var q = lid; q < quads; q += ${SIZE}u) {
      var codes = vec4<i32>();
      var bits = 0u;
      for (var j = 0u; j < 4u; j++) {
        let k = piece + 4u * q + j;
        if (k >= P.features) { break; }
        let value = round_f16(x_of(x0, k, mean, factor));
        let own = ${outliers ? 'abs(value) >= P.threshold' : 'false'};
        codes[j] = i32(select(round(value * to_codes), 0.0, own || !(largest > 0.0)));
        bits |= select(0u, 1u << j, own);
      }
      staged[q] = codes;${outliers ? '\n      outliers[q] = bits;' : ''}
    }`;
}

/** Sums of products of row `row` of weight i with a piece, in lanes: whole numbers for codes, and what the outliers come to. */
function accumulate(stage: Stage, i: number, n: number): string {
  const slot = n === 0 ? 'slot' : `slot + ${ROWS * LANES}u`;
  if (stage.kind === 'rotate') {
    return `
        var sum${n} = 0.0;
        for (var c = first + lane; c < last; c += ${LANES}u) { sum${n} += dots_${i}(base, row, c, (c - first) * 8u); }
        partial[${slot}] += sum${n};`;
  }
  return `
        var sum${n} = 0;
        for (var n = first * 8u + lane; n < last * 8u; n += ${LANES}u) {
          let q = word_${i}(base + row * P.w${i}_row_words + n);
          sum${n} += dot(${signedBytes('q')}, staged[n - first * 8u]);
        }
        partial[${slot}] += sum${n};${
          stage.outliers
            ? `
        if (any) {
          var rest${n} = 0.0;
          for (var n = first * 8u + lane; n < last * 8u; n += ${LANES}u) {
            let bits = outliers[n - first * 8u];
            if (bits == 0u) { continue; }
            let q = word_${i}(base + row * P.w${i}_row_words + n);
            let codes = ${signedBytes('q')};
            for (var j = 0u; j < 4u; j++) {
              if ((bits & (1u << j)) != 0u) { rest${n} += x_of(x0, n * 4u + j, mean, factor) * f32(codes[j]); }
            }
          }
          rest[${slot}] += rest${n};
        }`
            : ''
        }`;
}

/** Grid: (as many workgroups as all weights have 32 rows, those of each filled up; rows of x, or routed ones). */
export function stagedKernel({ stage, weights, norm, end, experts = false }: StagedOptions): Kernel {
  const gated = typeof end !== 'string';
  const outliers = stage.kind === 'int8' && stage.outliers;
  const fields: Record<string, FieldType> = { x: 'u32', inp: 'u32', features: 'u32', chunks: 'u32' };
  if (stage.kind === 'int8') fields.threshold = 'f32';
  if (norm) Object.assign(fields, { eps: 'f32', norm_weight: 'u32', norm_offset: 'f32', norm_bias: 'u32' });
  if (end === 'add') Object.assign(fields, { residual: 'u32', residual_factor: 'f32', factor: 'f32' });
  if (experts) Object.assign(fields, { ids: 'u32', slots: 'u32', stride: 'u32', top_k: 'u32' });
  for (const i of range(weights.length)) Object.assign(fields, weightFields(i));
  for (const i of range(gated ? 1 : weights.length))
    Object.assign(fields, { [`out${i}`]: 'u32', [`out${i}_width`]: 'u32', [`out${i}_at`]: 'u32' });
  const name = stage.kind === 'rotate' ? `rotate ${stage.run}` : `int8${outliers ? ' outliers' : ''}`;
  const ends = typeof end === 'string' ? end : `gate ${end.gate}`;
  const number = stage.kind === 'rotate' ? 'f32' : 'i32';
  const sums = ROWS * LANES * (gated ? 2 : 1);
  const reduces = norm !== undefined || stage.kind === 'int8';
  return kernel({
    name: `staged ${name}${experts ? ' experts' : ''}${norm ? ` ${norm.kind}${norm.weight ? ' weight' : ''}${norm.bias ? ' bias' : ''}` : ''} ${ends}: ${weights.map(kindName).join(' | ')}`,
    fields,
    weights: weights.length,
    size: SIZE,
    declarations: (variant) =>
      [
        ...weights.map((weight, i) => (stage.kind === 'rotate' ? dotsCode(i, weight, variant, 'staged') : weightCode(i, weight, variant))),
        xCode(norm),
        gated ? `fn activated(x: f32) -> f32 { return ${ACTIVATED[end.gate]}; }` : '',
        reduces ? reductions() : '',
        `var<workgroup> staged: array<vec4<${number}>, ${PIECE / 4}>;`,
        `// Of each row what its lanes have summed up.\nvar<workgroup> partial: array<${number}, ${sums}>;`,
        outliers ? `var<workgroup> rest: array<f32, ${sums}>;\nvar<workgroup> outliers: array<u32, ${PIECE / 4}>;` : '',
        stage.kind === 'rotate' ? ROTATED_QUAD : '',
      ].join('\n'),
    body: stagedBody({ stage, weights, norm, end, experts }),
  });
}

function stagedBody({ stage, weights, norm, end, experts = false }: StagedOptions): string {
  const gated = typeof end !== 'string';
  const int8 = stage.kind === 'int8';
  /** Rows of weights in turn: those of a gate side by side, others one after another. */
  const parts = gated ? [range(2)] : range(weights.length).map((i) => [i]);
  const groups = (i: number): string => `((P.w${i}_out + ${ROWS - 1}u) / ${ROWS}u)`;
  const before = (part: number): string => range(part).map(groups).join(' + ') || '0u';
  const branch = (code: (part: number) => string): string =>
    parts
      .map((_, part) => (part === parts.length - 1 ? `{${code(part)}\n  }` : `if (wx < ${before(part + 1)}) {${code(part)}\n  }`))
      .join(' else ');
  const tables = branch((part) => parts[part]!.map((i) => tableCode(i, weights[i]!, { size: SIZE, base: 'base' })).join(''));
  const multiply = branch(
    (part) => `
      let begin = (wx - (${before(part)})) * ${ROWS}u + lid / ${LANES}u;
      for (var turn = 0u; turn < ${ROWS / TURN}u; turn++) {
        let row = min(begin + turn * ${TURN}u, P.w${part}_out - 1u);
        let slot = turn * ${SIZE}u + lid;${parts[part]!.map((i, n) => accumulate(stage, i, n)).join('')}
      }`,
  );
  const sum = (i: number, name: string, n: number): string => {
    const from = n === 0 ? 'start' : `start + ${ROWS * LANES}u`;
    const fold = (to: string, zero: string, array: string): string =>
      `var ${to} = ${zero};
      for (var l = 0u; l < ${LANES}u; l++) { ${to} += ${array}[${from} + l]; }`;
    if (!int8) return fold(name, '0.0', 'partial');
    return `${fold(`whole_${name}`, '0', 'partial')}
      let scale_${name} = bitcast<f32>(word_${i}(base + P.w${i}_scale + row));
      var ${name} = f32(whole_${name}) * scale_x * scale_${name} * (1.0 / 16129.0);${
        stage.outliers
          ? `
      ${fold(`rest_${name}`, '0.0', 'rest')}
      ${name} += rest_${name} * scale_${name} * 0.007874015748031496;`
          : ''
      }`;
  };
  const store = (part: number): string => {
    const i = parts[part]![0]!;
    const at = `at(P.out${part}) + wid.y * P.out${part}_width + P.out${part}_at + row`;
    const sums = parts[part]!.map((one, n) => sum(one, n === 0 ? 'sum' : 'sum_others', n)).join('\n      ');
    const value = `sum + bias_${i}(base, row)`;
    const stored = gated
      ? `arena[${at}] = activated(${value}) * (sum_others + bias_1(base, row));`
      : end === 'add'
        ? `let to = ${at};
      arena[to] = P.residual_factor * arena[at(P.residual) + to - at(P.out0)] + P.factor * (${value});`
        : `arena[${at}] = ${value};`;
    return `
    let row = (wx - (${before(part)})) * ${ROWS}u + lid;
    if (row < P.w${part}_out${experts ? ' && slot >= 0.0' : ''}) {
      let start = lid * ${LANES}u;
      ${sums}
      ${stored}
    }`;
  };
  return `
  let lane = lid % ${LANES}u;
${
  experts
    ? `  let slot = constants[P.slots + u32(arena[at(P.ids) + wid.y])];
  let base = u32(max(slot, 0.0)) * P.stride;
  let x0 = at(P.x) + select(wid.y, wid.y / P.top_k, P.top_k > 0u) * P.features;`
    : `  let base = 0u;
  let x0 = at(P.x) + wid.y * P.features;`
}
  ${weights.some(({ table }) => table > 0) ? tables : ''}${normBody(norm)}${stage.kind === 'int8' ? int8Scale(stage.outliers) : ''}
  for (var piece = 0u; piece < P.inp; piece += ${PIECE}u) {
    let first = piece / 32u;
    let last = min(P.chunks, first + ${PIECE / 32}u);
    let quads = (last - first) * 8u;
    workgroupBarrier();${stage.kind === 'rotate' ? rotation(stage.run) : int8Codes(stage.outliers)}
    workgroupBarrier();
    ${multiply}
  }
  workgroupBarrier();
  if (lid >= ${ROWS}u) { return; }
  ${branch(store)}`;
}
