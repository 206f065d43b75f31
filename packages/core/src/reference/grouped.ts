// Affine and codebook weights in memory: codes row by row, two to a byte up to 4 bits, with float32 scales and zeros. Whatever the kernel, a weight
// is the codec's number exactly: the same float32 operations in the same order.
//
// The kernels are functions of the module that take their weight as an argument: closures would be compiled anew for every weight of a model.

import { rounder } from '../dtype.ts';
import { packing } from '../pack/index.ts';
import { LowbitError } from '../spec/errors.ts';
import type { Affine, Codebook, Format, FormatCodec, QuantizedTensor } from '../spec/format.ts';
import type { Matrix } from '../spec/tensor.ts';
import type { HeldWeight, HoldingPlan, ProductDtype } from './weights.ts';

/** Codes and the numbers that make weights of them. One shape of record for all kinds, so that kernels see one kind of object. */
interface Grouped {
  readonly out: number;
  readonly inp: number;
  /** Elements per group: consecutive ones of a row or, along axis 0, every blocks-th row of a column. */
  readonly group: number;
  readonly codes: Uint8Array;
  readonly scale: Float32Array;
  /** Of affine grids; empty for codebooks. */
  readonly zero: Float32Array;
  /** Of codebooks; empty for affine grids. */
  readonly table: Float32Array;
  /** Rounds a product of those two. */
  readonly round: (value: number) => number;
}

const f = Math.fround;
const NONE = new Float32Array(0);
const NO_CODES = new Uint8Array(0);
const UNPACK_ROWS = 64;

/** The plan for a weight whose groups lie within rows or columns, or undefined for one that only its codec can take apart. */
export function planGrouped(codec: FormatCodec, format: Format, shape: Matrix, product: ProductDtype): HoldingPlan | undefined {
  if (format.kind === 'affine') return planAffine(codec, format as Affine, shape);
  return format.kind === 'codebook' ? planCodebook(codec, format as Codebook, shape, rounder(product)) : undefined;
}

function planAffine(codec: FormatCodec, format: Affine, shape: Matrix): HoldingPlan | undefined {
  const [out, inp] = shape;
  const along = format.axis === 1 ? inp : out;
  const group = format.group ?? along;
  const { bits } = packing(format.packing);
  if (along % group !== 0 || bits > 8) return undefined;
  const pairs = bits <= 4 && (format.axis === 1 ? group : inp) % 2 === 0;
  const groups = (out * inp) / group;
  const metaBytes = 8 * groups;
  return {
    level: 'repack',
    bytes: (out * inp) / (pairs ? 2 : 1) + metaBytes,
    metaBytes,
    hold(weight, bytes) {
      const codes = repack(codec, weight, pairs, 256);
      const held: Grouped = { out, inp, group, codes, round: f, ...numbersOf(codec, weight) };
      if (format.axis === 0) return { bytes, fill: (from, to, into) => fillColumns(held, pairs, from, to, into) };
      return pairs ? heldPairs(held, bytes) : heldBytes(held, bytes);
    },
  };
}

function planCodebook(codec: FormatCodec, format: Codebook, shape: Matrix, round: Grouped['round']): HoldingPlan | undefined {
  const [out, inp] = shape;
  const { group, dim, bits, rotate } = format;
  if (rotate || inp % group !== 0 || group % 2 !== 0 || bits > 4) return undefined;
  const groups = (out * inp) / group;
  const metaBytes = 4 * groups + 4 * dim * 2 ** (bits * dim);
  if (dim === 2) {
    return {
      level: 'repack',
      bytes: (out * inp) / 2 + metaBytes,
      metaBytes,
      hold(weight, bytes) {
        const codes = repack(codec, weight, false, 2 ** (2 * bits));
        return heldVectors({ out, inp, group, codes, round, ...numbersOf(codec, weight) }, bytes);
      },
    };
  }
  return {
    level: 'repack',
    bytes: (out * inp) / 2 + metaBytes,
    metaBytes,
    hold(weight, bytes) {
      const codes = repack(codec, weight, true, 2 ** bits);
      return heldPairs({ out, inp, group, codes, round, ...numbersOf(codec, weight) }, bytes);
    },
  };
}

function numbersOf(codec: FormatCodec, weight: QuantizedTensor): Pick<Grouped, 'scale' | 'zero' | 'table'> {
  const { scale, zero = NONE, table = NONE } = codec.numbers(weight)!; // affine and codebook formats have them
  return { scale, zero, table };
}

/** The codes row by row, two to a byte (the earlier one in the low half) or one. */
function repack(codec: FormatCodec, weight: QuantizedTensor, pairs: boolean, entries: number): Uint8Array {
  const [out] = weight.shape;
  let packed = NO_CODES;
  for (let from = 0; from < out; from += UNPACK_ROWS) {
    const { data: codes, shape } = codec.unpackRows(weight, from, Math.min(out, from + UNPACK_ROWS));
    const perRow = shape[1]!;
    if (from === 0) packed = new Uint8Array((out * perRow) / (pairs ? 2 : 1));
    const bad = codes.findIndex((code) => code >= entries);
    if (bad >= 0) {
      throw new LowbitError('ERR_TENSOR_MISMATCH', `part 'codes': code ${codes[bad]} is not in a table of ${entries} entries`, {
        details: { part: 'codes', code: codes[bad], entries },
      });
    }
    if (!pairs) packed.set(codes, from * perRow);
    else for (let i = 0, to = (from * perRow) / 2; i < codes.length; i += 2, to++) packed[to] = codes[i]! | (codes[i + 1]! << 4);
  }
  return packed;
}

/** Numbers of codes 0 .. 15 of a group within a row, written to `into` from `at`. */
function groupTable({ scale, zero, table, round }: Grouped, group: number, into: Float64Array, at: number): void {
  const s = scale[group]!;
  if (table.length > 0) {
    for (let q = 0; q < table.length; q++) into[at + q] = round(table[q]! * s);
    return;
  }
  const z = zero[group]!;
  for (let q = 0; q < 16; q++) into[at + q] = f(f(q - z) * s);
}

const numbers = new Float64Array(64); // tables of one group in four rows
const sums = new Float64Array(4);

function heldPairs(weight: Grouped, bytes: number): HeldWeight {
  const { out, inp } = weight;
  const rest = new Float64Array(out % 4 === 0 ? 0 : inp);
  return {
    bytes,
    fill: (from, to, into) => fillPairs(weight, from, to, into),
    multiplyRow(x, y, bias) {
      const whole = out - (out % 4);
      for (let row = 0; row < whole; row += 4) {
        sumPairs(weight, x, row);
        for (let j = 0; j < 4; j++) y[row + j] = bias ? sums[j]! + bias[row + j]! : sums[j]!;
      }
      for (let row = whole; row < out; row++) {
        fillPairs(weight, row, row + 1, rest);
        let sum = 0;
        for (let k = 0; k < inp; k++) sum += x[k]! * rest[k]!;
        y[row] = bias ? sum + bias[row]! : sum;
      }
    },
  };
}

function fillPairs(weight: Grouped, from: number, to: number, into: Float64Array): void {
  const { inp, group, codes } = weight;
  const perRow = inp / group;
  let at = (from * inp) / 2;
  let i = 0;
  for (let g = from * perRow; g < to * perRow; g++) {
    groupTable(weight, g, numbers, 0);
    for (const end = at + group / 2; at < end; at++, i += 2) {
      const pair = codes[at]!;
      into[i] = numbers[pair & 15]!;
      into[i + 1] = numbers[pair >>> 4]!;
    }
  }
}

/** Sums of four rows, to `sums`. Each runs over the inputs in order, as in matmul.ts. */
function sumPairs(weight: Grouped, x: Float64Array, row: number): void {
  const { inp, group, codes } = weight;
  const perRow = inp / group;
  const [p0, p1, p2, p3] = [(row * inp) / 2, ((row + 1) * inp) / 2, ((row + 2) * inp) / 2, ((row + 3) * inp) / 2];
  let [s0, s1, s2, s3] = [0, 0, 0, 0];
  for (let g = 0; g < perRow; g++) {
    for (let j = 0; j < 4; j++) groupTable(weight, (row + j) * perRow + g, numbers, 16 * j);
    const end = ((g + 1) * group) / 2;
    for (let i = (g * group) / 2; i < end; i++) {
      const u = x[2 * i]!;
      const v = x[2 * i + 1]!;
      let pair = codes[p0 + i]!;
      s0 += u * numbers[pair & 15]!;
      s0 += v * numbers[pair >>> 4]!;
      pair = codes[p1 + i]!;
      s1 += u * numbers[16 + (pair & 15)]!;
      s1 += v * numbers[16 + (pair >>> 4)]!;
      pair = codes[p2 + i]!;
      s2 += u * numbers[32 + (pair & 15)]!;
      s2 += v * numbers[32 + (pair >>> 4)]!;
      pair = codes[p3 + i]!;
      s3 += u * numbers[48 + (pair & 15)]!;
      s3 += v * numbers[48 + (pair >>> 4)]!;
    }
  }
  sums[0] = s0;
  sums[1] = s1;
  sums[2] = s2;
  sums[3] = s3;
}

function heldBytes(weight: Grouped, bytes: number): HeldWeight {
  const { out } = weight;
  return {
    bytes,
    fill: (from, to, into) => fillBytes(weight, from, to, into),
    multiplyRow(x, y, bias) {
      for (let row = 0; row < out; row += 4) {
        sumBytes(weight, x, row);
        for (let j = 0; j < Math.min(4, out - row); j++) y[row + j] = bias ? sums[j]! + bias[row + j]! : sums[j]!;
      }
    },
  };
}

function fillBytes({ inp, group, codes, scale, zero }: Grouped, from: number, to: number, into: Float64Array): void {
  const perRow = inp / group;
  const at = from * inp;
  let i = 0;
  for (let g = from * perRow; g < to * perRow; g++) {
    const s = scale[g]!;
    const z = zero[g]!;
    for (const end = i + group; i < end; i++) into[i] = f(f(codes[at + i]! - z) * s);
  }
}

/** Sums of four rows, to `sums`. A row past the last repeats the last. */
function sumBytes({ out, inp, group, codes, scale, zero }: Grouped, x: Float64Array, row: number): void {
  const perRow = inp / group;
  const [r1, r2, r3] = [Math.min(out - 1, row + 1), Math.min(out - 1, row + 2), Math.min(out - 1, row + 3)];
  const [c0, c1, c2, c3] = [row * inp, r1 * inp, r2 * inp, r3 * inp];
  let [s0, s1, s2, s3] = [0, 0, 0, 0];
  for (let g = 0; g < perRow; g++) {
    const [g0, g1, g2, g3] = [row * perRow + g, r1 * perRow + g, r2 * perRow + g, r3 * perRow + g];
    const [z0, z1, z2, z3] = [zero[g0]!, zero[g1]!, zero[g2]!, zero[g3]!];
    const [w0, w1, w2, w3] = [scale[g0]!, scale[g1]!, scale[g2]!, scale[g3]!];
    for (let k = g * group, end = k + group; k < end; k++) {
      const v = x[k]!;
      s0 += v * f(f(codes[c0 + k]! - z0) * w0);
      s1 += v * f(f(codes[c1 + k]! - z1) * w1);
      s2 += v * f(f(codes[c2 + k]! - z2) * w2);
      s3 += v * f(f(codes[c3 + k]! - z3) * w3);
    }
  }
  sums[0] = s0;
  sums[1] = s1;
  sums[2] = s2;
  sums[3] = s3;
}

/** Codes that stand for two weights each: one a byte. */
function heldVectors(weight: Grouped, bytes: number): HeldWeight {
  const { out } = weight;
  return {
    bytes,
    fill: (from, to, into) => fillVectors(weight, from, to, into),
    multiplyRow(x, y, bias) {
      for (let row = 0; row < out; row += 4) {
        sumVectors(weight, x, row);
        for (let j = 0; j < Math.min(4, out - row); j++) y[row + j] = bias ? sums[j]! + bias[row + j]! : sums[j]!;
      }
    },
  };
}

function fillVectors({ inp, group, codes, scale, table, round }: Grouped, from: number, to: number, into: Float64Array): void {
  const perRow = inp / group;
  let at = (from * inp) / 2;
  let i = 0;
  for (let g = from * perRow; g < to * perRow; g++) {
    const s = scale[g]!;
    for (const end = at + group / 2; at < end; at++, i += 2) {
      const entry = 2 * codes[at]!;
      into[i] = round(table[entry]! * s);
      into[i + 1] = round(table[entry + 1]! * s);
    }
  }
}

/** Sums of four rows, to `sums`. A row past the last repeats the last. */
function sumVectors({ out, inp, group, codes, scale, table, round }: Grouped, x: Float64Array, row: number): void {
  const perRow = inp / group;
  const half = inp / 2;
  const [r1, r2, r3] = [Math.min(out - 1, row + 1), Math.min(out - 1, row + 2), Math.min(out - 1, row + 3)];
  const [c0, c1, c2, c3] = [row * half, r1 * half, r2 * half, r3 * half];
  let [s0, s1, s2, s3] = [0, 0, 0, 0];
  for (let g = 0; g < perRow; g++) {
    const [w0, w1, w2, w3] = [scale[row * perRow + g]!, scale[r1 * perRow + g]!, scale[r2 * perRow + g]!, scale[r3 * perRow + g]!];
    const end = ((g + 1) * group) / 2;
    for (let i = (g * group) / 2; i < end; i++) {
      const u = x[2 * i]!;
      const v = x[2 * i + 1]!;
      let entry = 2 * codes[c0 + i]!;
      s0 += u * round(table[entry]! * w0);
      s0 += v * round(table[entry + 1]! * w0);
      entry = 2 * codes[c1 + i]!;
      s1 += u * round(table[entry]! * w1);
      s1 += v * round(table[entry + 1]! * w1);
      entry = 2 * codes[c2 + i]!;
      s2 += u * round(table[entry]! * w2);
      s2 += v * round(table[entry + 1]! * w2);
      entry = 2 * codes[c3 + i]!;
      s3 += u * round(table[entry]! * w3);
      s3 += v * round(table[entry + 1]! * w3);
    }
  }
  sums[0] = s0;
  sums[1] = s1;
  sums[2] = s2;
  sums[3] = s3;
}

/** Rows of a weight grouped along axis 0: row r and column c are of group (r mod blocks) * inp + c, with `blocks` = out / group. */
function fillColumns({ out, inp, group, codes, scale, zero }: Grouped, pairs: boolean, from: number, to: number, into: Float64Array): void {
  const blocks = out / group;
  let i = 0;
  for (let row = from; row < to; row++) {
    let g = (row % blocks) * inp;
    if (!pairs) {
      for (let at = row * inp, end = at + inp; at < end; at++, i++, g++) into[i] = f(f(codes[at]! - zero[g]!) * scale[g]!);
      continue;
    }
    for (let at = (row * inp) / 2, end = at + inp / 2; at < end; at++, i += 2, g += 2) {
      const pair = codes[at]!;
      into[i] = f(f((pair & 15) - zero[g]!) * scale[g]!);
      into[i + 1] = f(f((pair >>> 4) - zero[g + 1]!) * scale[g + 1]!);
    }
  }
}
