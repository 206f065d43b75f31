// Weights as numbers: `chunk_i` gives 32 weights of a row, from their first input on.
//
// Codes lie in rows, 32 inputs (a chunk) after another; the codes of a chunk fill whole words, the first in the lowest bits of the first. Rows are filled up
// with zeros to whole chunks. Scales, zeros, tables and biases come after them; `P` says at which word.

import type { StoredFloat, WeightLayout } from '../layout.ts';
import type { FieldType, Variant } from './kernel.ts';

/** What the WGSL of a weight depends on: layouts with equal ones share their kernels. */
export interface WeightKind
  extends Pick<WeightLayout, 'kind' | 'bits' | 'dim' | 'grouping' | 'meta' | 'stored' | 'round' | 'fixedZero' | 'table'> {
  readonly tail: boolean;
  readonly bias: boolean;
}

export function kindOf(layout: WeightLayout, { bias }: { readonly bias: boolean }): WeightKind {
  const { kind, bits, dim, grouping, meta, stored, round, fixedZero, table, inp } = layout;
  return { kind, bits, dim, grouping, meta, stored, round, fixedZero, table, bias, tail: inp % 32 !== 0 };
}

/** Short and exact, for names of kernels. */
export function kindName(weight: WeightKind): string {
  const { kind, bits, dim, grouping, meta, stored, round, fixedZero, table, tail, bias } = weight;
  const ends = `${tail ? ' tail' : ''}${bias ? ' bias' : ''}`;
  if (kind === 'dense') return `${stored}${ends}`;
  if (kind === 'int8') return `int8${ends}`;
  const what = table > 0 ? `table${dim} ${round}` : `affine${fixedZero ? ` around ${fixedZero}` : ''}`;
  return `${what} ${bits}b ${grouping} ${meta}${ends}`;
}

/** Fields of `P` for weight i. */
export function weightFields(i: number): Record<string, FieldType> {
  const names = ['out', 'row_words', 'scale', 'zero', 'table', 'bias', 'group', 'groups', 'per_row', 'row0', 'group0'];
  return Object.fromEntries(names.map((name) => [`w${i}_${name}`, 'u32' as const]));
}

function storedAt(i: number, name: string, dtype: StoredFloat): string {
  const word = { f32: 'g', f16: '(g >> 1u)', bf16: '(g >> 1u)' }[dtype];
  const value = {
    f32: 'bitcast<f32>(bits)',
    f16: 'unpack2x16float(bits)[g & 1u]',
    bf16: 'bitcast<f32>((bits >> ((g & 1u) * 16u)) << 16u)',
  }[dtype];
  return `fn ${name}_${i}(start: u32, g: u32) -> f32 { let bits = word_${i}(start + ${word}); return ${value}; }`;
}

const quads = Array.from({ length: 8 }, (_, j) => j);

/** `chunk_i(base, row, c)`: weights 32 c .. 32 c + 31 of row `row`; `base` is the word where the weight begins. */
export function weightCode(i: number, weight: WeightKind, variant: Variant): string {
  const { declarations, loads, quads: all } = chunkParts(i, weight, variant);
  return `${declarations}
fn chunk_${i}(base: u32, row: u32, c: u32) -> array<vec4<f32>, 8> {
  ${loads}
  return array<vec4<f32>, 8>(
    ${all.join(',\n    ')});
}${biasCode(i, weight)}`;
}

/**
 * In place of `weightCode`, `dots_i(base, row, c, at)`: the sum of those 32 weights times 32 numbers, 4 at a time in the array `x` from `at` on. No weight is kept:
 * arrays that are indexed by variables lie in memory.
 */
export function dotsCode(i: number, weight: WeightKind, variant: Variant, x: string): string {
  const { declarations, loads, quads: all } = chunkParts(i, weight, variant);
  return `${declarations}
fn dots_${i}(base: u32, row: u32, c: u32, at: u32) -> f32 {
  ${loads}
  return ${all.map((quad, j) => `dot(${quad}, ${x}[at + ${j}u])`).join('\n    + ')};
}${biasCode(i, weight)}`;
}

function biasCode(i: number, { bias }: WeightKind): string {
  return `
fn bias_${i}(base: u32, row: u32) -> f32 { return ${bias ? `bitcast<f32>(word_${i}(base + P.w${i}_bias + row))` : '0.0'}; }`;
}

/** The weights of a chunk, four at a time, in terms of `base`, `row` and `c`; and what stands before them. */
function chunkParts(
  i: number,
  weight: WeightKind,
  variant: Variant,
): { readonly declarations: string; readonly loads: string; readonly quads: readonly string[] } {
  const { bits, kind } = weight;
  const { loads, u } = chunkWords(i, bits);
  const body = { dense: denseQuads, int8: int8Quads, grouped: groupedQuads }[kind](i, weight, u, variant);
  const masked = weight.tail && kind === 'grouped';
  const quad = (j: number): string => {
    const value = body.quads[j]!;
    return masked
      ? `select(vec4<f32>(), ${value}, c * 32u + vec4<u32>(${[0, 1, 2, 3].map((k) => `${4 * j + k}u`)}) < vec4<u32>(P.inp))`
      : value;
  };
  return {
    declarations: `
fn word_${i}(n: u32) -> u32 { return w${i}[n >> 2u][n & 3u]; }
${body.declarations}`,
    loads: `let start = base + row * P.w${i}_row_words + c * ${bits}u;
  ${loads}
  ${body.before}`,
    quads: quads.map(quad),
  };
}

type Word = (n: number) => string;

/** The words of a chunk that begins at `start`, and what they are called. */
function chunkWords(i: number, words: number): { readonly loads: string; readonly u: Word } {
  const loads =
    words % 4 === 0
      ? Array.from({ length: words / 4 }, (_, n) => `let v${n} = w${i}[(start >> 2u) + ${n}u];`)
      : Array.from({ length: words }, (_, n) => `let u${n} = word_${i}(start + ${n}u);`);
  return { loads: loads.join('\n  '), u: (n) => (words % 4 === 0 ? `v${n >> 2}.${'xyzw'[n & 3]}` : `u${n}`) };
}

/** Code k of a chunk, `width` bits each, as u32. */
function codeAt(k: number, width: number, u: Word): string {
  const [bit, mask] = [k * width, 2 ** width - 1];
  const [word, shift] = [bit >> 5, bit & 31];
  const low = shift === 0 ? u(word) : `(${u(word)} >> ${shift}u)`;
  return shift + width <= 32 ? `(${low} & ${mask}u)` : `((${low} | (${u(word + 1)} << ${32 - shift}u)) & ${mask}u)`;
}

/**
 * Codes as f16, which holds them exactly: two at a time are put under the exponent of 1024, of which an f16 has whole numbers alone. Conversions from u32 are
 * slow on many GPUs, and there are half as many steps. Widths that do not part 16 bits are converted one by one.
 */
function halfCodes(i: number, width: number, u: Word): { readonly declarations: string; readonly before: string; quad(j: number): string } {
  if (16 % width !== 0) {
    const quad = (j: number): string => `vec4<f16>(vec4<u32>(${[0, 1, 2, 3].map((k) => codeAt(4 * j + k, width, u)).join(', ')}))`;
    return { declarations: '', before: '', quad };
  }
  const [half, mask] = [16 / width, (2 ** width - 1) * 65537];
  const pairs = Array.from({ length: width * half }, (_, n) => {
    const [word, t] = [Math.floor(n / half), n % half];
    return `let p${n} = pair_${i}(${t === 0 ? u(word) : `${u(word)} >> ${t * width}u`});`;
  });
  const one = (k: number): string => {
    const [word, place] = [Math.floor(k / (2 * half)), k % (2 * half)];
    return `p${word * half + (place % half)}.${place < half ? 'x' : 'y'}`;
  };
  return {
    declarations: `fn pair_${i}(bits: u32) -> vec2<f16> { return bitcast<vec2<f16>>((bits & ${mask}u) | 0x64006400u) - vec2<f16>(1024.0h); }`,
    before: pairs.join('\n  '),
    quad: (j) => `vec4<f16>(${[0, 1, 2, 3].map((k) => one(4 * j + k)).join(', ')})`,
  };
}

/** Whether an f16 holds the weights exactly: themselves, or whole numbers of one grid a chunk. */
export function exactInHalves({ kind, stored, table, grouping }: WeightKind): boolean {
  return kind === 'dense' ? stored === 'f16' : kind === 'grouped' && table === 0 && grouping === 'chunk';
}

/**
 * `halves_i(base, row, c)`: what an f16 holds exactly of 32 weights; `grid_i(base, row, c)`: their scale and zero. Goes beside `weightCode`. Codes that fill a
 * row up are 0, whatever their weights are.
 */
export function halvesCode(i: number, weight: WeightKind): string {
  const { bits, kind, fixedZero } = weight;
  const { loads, u } = chunkWords(i, bits);
  const codes = halfCodes(i, bits, u);
  const dense = kind === 'dense';
  const quad = (j: number): string => (dense ? `bitcast<vec4<f16>>(vec2<u32>(${u(2 * j)}, ${u(2 * j + 1)}))` : codes.quad(j));
  const zero = fixedZero > 0 ? `${fixedZero}.0` : `stored_${i}(base + P.w${i}_zero, g)`;
  const grid = dense
    ? ''
    : `
fn grid_${i}(base: u32, row: u32, c: u32) -> vec2<f32> {
  let g = row * P.w${i}_per_row + (c * 32u) / P.w${i}_group;
  return vec2<f32>(stored_${i}(base + P.w${i}_scale, g), ${zero});
}`;
  return `
fn halves_${i}(base: u32, row: u32, c: u32) -> array<vec4<f16>, 8> {
  let start = base + row * P.w${i}_row_words + c * ${bits}u;
  ${loads}
  ${dense ? '' : codes.before}
  return array<vec4<f16>, 8>(
    ${quads.map(quad).join(',\n    ')});
}${grid}`;
}

interface Quads {
  readonly declarations: string;
  readonly before: string;
  readonly quads: readonly string[];
}

function denseQuads(_: number, { stored }: WeightKind, u: Word): Quads {
  const quad = {
    f32: (j: number) => `bitcast<vec4<f32>>(v${j})`,
    f16: (j: number) => `vec4<f32>(unpack2x16float(${u(2 * j)}), unpack2x16float(${u(2 * j + 1)}))`,
    bf16: (j: number) => {
      const [a, b] = [u(2 * j), u(2 * j + 1)];
      return `bitcast<vec4<f32>>(vec4<u32>(${a} << 16u, ${a} & 0xffff0000u, ${b} << 16u, ${b} & 0xffff0000u))`;
    },
  }[stored];
  return { declarations: '', before: '', quads: quads.map(quad) };
}

/** Four signed bytes of a word. */
export function signedBytes(word: string): string {
  return `(vec4<i32>(vec4<u32>(${word} << 24u, ${word} << 16u, ${word} << 8u, ${word})) >> vec4<u32>(24u))`;
}

/** (q * scale[row]) * f32(1 / 127). */
function int8Quads(i: number, _: WeightKind, u: Word): Quads {
  return {
    declarations: storedAt(i, 'stored', 'f32'),
    before: `let s = stored_${i}(base + P.w${i}_scale, row);`,
    quads: quads.map((j) => `(vec4<f32>${signedBytes(u(j))} * s) * 0.007874015748031496`),
  };
}

function groupedQuads(i: number, weight: WeightKind, u: Word, { f16 }: Variant): Quads {
  const { bits, dim, grouping, meta, round, fixedZero, table } = weight;
  const code = (k: number): string => codeAt(k, bits * dim, u);
  const halves = f16 && table === 0 ? halfCodes(i, bits, u) : undefined;
  const rounded = round === 'f32' ? (value: string) => value : (value: string) => `round4_${i}(${value})`;
  const values = (j: number): string => {
    if (halves) return `vec4<f32>(${halves.quad(j)})`;
    if (table === 0) return `vec4<f32>(vec4<u32>(${[0, 1, 2, 3].map((k) => code(4 * j + k)).join(', ')}))`;
    if (dim === 1) return `vec4<f32>(${[0, 1, 2, 3].map((k) => `table_${i}[${code(4 * j + k)}]`).join(', ')})`;
    return `pairs_${i}(${code(2 * j)}, ${code(2 * j + 1)})`;
  };
  const declarations = [storedAt(i, 'stored', meta)];
  if (halves) declarations.push(halves.declarations);
  if (table > 0) declarations.push(`var<workgroup> table_${i}: array<f32, ${table}>;`);
  if (dim === 2) {
    declarations.push(
      `fn pairs_${i}(a: u32, b: u32) -> vec4<f32> { return vec4<f32>(table_${i}[2u * a], table_${i}[2u * a + 1u], table_${i}[2u * b], table_${i}[2u * b + 1u]); }`,
    );
  }
  if (round !== 'f32') declarations.push(roundedQuad(i, round));
  const scale = (g: string): string => `stored_${i}(base + P.w${i}_scale, ${g})`;
  const zero = (g: string): string => (fixedZero > 0 ? `${fixedZero}.0` : `stored_${i}(base + P.w${i}_zero, ${g})`);
  const scaled = (value: string, s: string, z: string): string => (table > 0 ? rounded(`${value} * ${s}`) : `(${value} - ${z}) * ${s}`);
  if (grouping === 'chunk') {
    const before = [`let g = row * P.w${i}_per_row + (c * 32u) / P.w${i}_group;`, `let s = ${scale('g')};`];
    if (table === 0) before.push(`let z = ${zero('g')};`);
    if (halves) before.push(halves.before);
    return { declarations: declarations.join('\n'), before: before.join('\n  '), quads: quads.map((j) => scaled(values(j), 's', 'z')) };
  }
  if (grouping === 'quad') {
    declarations.push(`fn quad_${i}(base: u32, row: u32, k: u32, v: vec4<f32>) -> vec4<f32> {
  let g = row * P.w${i}_per_row + k / P.w${i}_group;
  return ${scaled('v', scale('g'), table > 0 ? '' : zero('g'))};
}`);
  } else {
    const flat = `((P.w${i}_row0 + row) * P.inp + k + vec4<u32>(0u, 1u, 2u, 3u))`;
    const group = grouping === 'axis0' ? `${flat} % P.w${i}_groups` : `${flat} / P.w${i}_group - P.w${i}_group0`;
    const each = (one: (g: string) => string): string => `vec4<f32>(${['g.x', 'g.y', 'g.z', 'g.w'].map(one).join(', ')})`;
    declarations.push(`fn quad_${i}(base: u32, row: u32, k: u32, v: vec4<f32>) -> vec4<f32> {
  let g = ${group};
  return ${scaled('v', each(scale), table > 0 ? '' : fixedZero > 0 ? `${fixedZero}.0` : each(zero))};
}`);
  }
  return {
    declarations: declarations.join('\n'),
    before: halves?.before ?? '',
    quads: quads.map((j) => `quad_${i}(base, row, c * 32u + ${4 * j}u, ${values(j)})`),
  };
}

/**
 * `round4_i`: four numbers rounded as `round_f16` and `round_bf16` of floats.ts do it, by their bits, too, and without branches: there is one for each number
 * of a chunk. Sizes are signed, which processors compare at once.
 */
export function roundedQuad(i: number, dtype: 'f16' | 'bf16'): string {
  if (dtype === 'bf16') {
    return `fn round4_${i}(v: vec4<f32>) -> vec4<f32> { return vec4<f32>(round_bf16(v.x), round_bf16(v.y), round_bf16(v.z), round_bf16(v.w)); }`;
  }
  return `fn round4_${i}(v: vec4<f32>) -> vec4<f32> {
  let bits = bitcast<vec4<u32>>(v);
  let size = bitcast<vec4<i32>>(bits & vec4<u32>(0x7fffffffu));
  let whole = bitcast<vec4<f32>>((bits + 0xfffu + ((bits >> vec4<u32>(13u)) & vec4<u32>(1u))) & vec4<u32>(0xffffe000u));
  let small = round(v * 16777216.0) * 5.9604644775390625e-8;
  let large = bitcast<vec4<f32>>((bits & vec4<u32>(0x80000000u)) | bitcast<vec4<u32>>(max(size, vec4<i32>(0x7f800000))));
  return select(select(whole, small, size < vec4<i32>(0x38800000)), large, size > vec4<i32>(0x477fefff));
}`;
}

/** Brings the table of weight i into workgroup memory; in uniform control flow, before the first chunk. */
export function tableCode(
  i: number,
  { table }: WeightKind,
  { size, base = '0u' }: { readonly size: number; readonly base?: string },
): string {
  if (table === 0) return '';
  return `
  for (var n = lid; n < ${table}u; n += ${size}u) { table_${i}[n] = bitcast<f32>(word_${i}(${base} + P.w${i}_table + n)); }
  workgroupBarrier();`;
}
