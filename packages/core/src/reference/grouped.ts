// Weights whose groups lie within rows: 4-bit codes and fewer share a byte and are multiplied through a table of 16 numbers per group; wider
// affine codes take a byte and are multiplied by the formula. Both give the codec's numbers exactly: the same float32 operations in the same order.

import { storedNumbers } from '../codecs/stored.ts';
import { toFloat32 } from '../dtype.ts';
import { packing } from '../pack/index.ts';
import { LowbitError } from '../spec/errors.ts';
import type { Affine, Codebook, Format, FormatCodec, QuantizedTensor } from '../spec/format.ts';
import type { Matrix } from '../spec/tensor.ts';
import type { HeldWeight, HoldingPlan } from './weights.ts';

/** Numbers of codes 0 .. 15 of a group, written to `into` from `at`. */
type GroupTable = (group: number, into: Float64Array, at: number) => void;

/** Scale and zero of each group. */
interface Grid {
  readonly scale: Float32Array;
  readonly zero: Float32Array;
}

const f = Math.fround;
const UNPACK_ROWS = 64;

/** The plan for a format of this kind, or undefined for one that only the codec can take apart. */
export function planGrouped(codec: FormatCodec, format: Format, shape: Matrix): HoldingPlan | undefined {
  const [out, inp] = shape;
  if (format.kind !== 'affine' && format.kind !== 'codebook') return undefined;
  const group = format.group ?? inp;
  if (inp % group !== 0) return undefined;
  const { bits } = packing((format as Affine | Codebook).packing);
  const groups = (out * inp) / group;
  const nibbles = bits <= 4 && group % 2 === 0;
  const codes = nibbles ? (out * inp) / 2 : out * inp;
  if (format.kind === 'affine') {
    const { axis } = format as Affine;
    if (axis !== 1 || bits > 8) return undefined;
    return {
      level: 'repack',
      bytes: codes + 8 * groups,
      hold(weight) {
        const grid = readGrid(weight as QuantizedTensor<Affine>, groups);
        const packed = repack(codec, weight, nibbles, 256);
        if (!nibbles) return byteWeight(packed, shape, group, grid, codes + 8 * groups);
        return nibbleWeight(packed, shape, group, affineTable(grid), codes + 8 * groups);
      },
    };
  }
  const { dim, rotate, bits: tableBits } = format as Codebook;
  if (dim !== 1 || rotate || !nibbles || tableBits > 4) return undefined;
  const bytes = codes + 4 * groups + 4 * 16;
  return {
    level: 'repack',
    bytes,
    hold(weight) {
      const table = toFloat32(weight.parts.table!).slice();
      const scale = readScales(weight as QuantizedTensor<Codebook>, groups);
      const packed = repack(codec, weight, true, table.length);
      return nibbleWeight(packed, shape, group, codebookTable(table, scale), bytes);
    },
  };
}

function readGrid({ format, parts }: QuantizedTensor<Affine>, groups: number): Grid {
  const range = { from: 0, to: groups, dtype: 'f32' } as const;
  const scale = storedNumbers(parts, 'scale', format.scale, groups, range);
  if (format.zero === 'none') return { scale, zero: new Float32Array(groups).fill(format.levels / 2) };
  return { scale, zero: storedNumbers(parts, 'zero', format.zero, groups, range) };
}

function readScales({ format, parts }: QuantizedTensor<Codebook>, groups: number): Float32Array {
  const scale = storedNumbers(parts, 'scale', format.scale, groups, { from: 0, to: groups, dtype: 'f32' });
  const offset = format.offset ? toFloat32(parts['scale.offset']!)[0]! : 0;
  return format.offset ? scale.map((value) => value + offset) : scale;
}

const affineTable =
  ({ scale, zero }: Grid): GroupTable =>
  (group, into, at) => {
    const s = scale[group]!;
    const z = zero[group]!;
    for (let q = 0; q < 16; q++) into[at + q] = f(f(q - z) * s);
  };

const codebookTable =
  (table: Float32Array, scale: Float32Array): GroupTable =>
  (group, into, at) => {
    const s = scale[group]!;
    for (let q = 0; q < table.length; q++) into[at + q] = f(table[q]! * s);
  };

/** The codes row by row, two to a byte (the earlier one in the low half) or one. */
function repack(codec: FormatCodec, weight: QuantizedTensor, nibbles: boolean, entries: number): Uint8Array {
  const [out, inp] = weight.shape;
  const packed = new Uint8Array(nibbles ? (out * inp) / 2 : out * inp);
  for (let from = 0; from < out; from += UNPACK_ROWS) {
    const codes = codec.unpackRows(weight, from, Math.min(out, from + UNPACK_ROWS)).data;
    const bad = codes.findIndex((code) => code >= entries);
    if (bad >= 0) {
      throw new LowbitError('ERR_TENSOR_MISMATCH', `part 'codes': code ${codes[bad]} is not in a table of ${entries} entries`, {
        details: { part: 'codes', code: codes[bad], entries },
      });
    }
    if (!nibbles) packed.set(codes, from * inp);
    else for (let i = 0, to = (from * inp) / 2; i < codes.length; i += 2, to++) packed[to] = codes[i]! | (codes[i + 1]! << 4);
  }
  return packed;
}

function nibbleWeight(packed: Uint8Array, [out, inp]: Matrix, group: number, table: GroupTable, bytes: number): HeldWeight {
  const perRow = inp / group;
  const half = group / 2;
  const numbers = new Float64Array(64); // tables of one group in four rows
  const sums = new Float64Array(4);

  /** Sums of four rows. Each runs over the inputs in order, as in matmul.ts. */
  function fourRows(x: Float64Array, row: number): void {
    let [s0, s1, s2, s3] = [0, 0, 0, 0];
    const stride = inp / 2;
    for (let g = 0; g < perRow; g++) {
      for (let j = 0; j < 4; j++) table((row + j) * perRow + g, numbers, 16 * j);
      const end = (g + 1) * half;
      const [p0, p1, p2, p3] = [row * stride, (row + 1) * stride, (row + 2) * stride, (row + 3) * stride];
      for (let i = g * half; i < end; i++) {
        const u = x[2 * i]!;
        const v = x[2 * i + 1]!;
        let pair = packed[p0 + i]!;
        s0 += u * numbers[pair & 15]!;
        s0 += v * numbers[pair >>> 4]!;
        pair = packed[p1 + i]!;
        s1 += u * numbers[16 + (pair & 15)]!;
        s1 += v * numbers[16 + (pair >>> 4)]!;
        pair = packed[p2 + i]!;
        s2 += u * numbers[32 + (pair & 15)]!;
        s2 += v * numbers[32 + (pair >>> 4)]!;
        pair = packed[p3 + i]!;
        s3 += u * numbers[48 + (pair & 15)]!;
        s3 += v * numbers[48 + (pair >>> 4)]!;
      }
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
  }

  function fill(from: number, to: number, into: Float64Array): void {
    let at = (from * inp) / 2;
    let i = 0;
    for (let g = from * perRow; g < to * perRow; g++) {
      table(g, numbers, 0);
      for (const end = at + half; at < end; at++) {
        const pair = packed[at]!;
        into[i++] = numbers[pair & 15]!;
        into[i++] = numbers[pair >>> 4]!;
      }
    }
  }

  const rest = out % 4 === 0 ? undefined : new Float64Array(inp);
  return {
    bytes,
    fill,
    multiplyRow(x, y, bias) {
      const whole = out - (out % 4);
      for (let row = 0; row < whole; row += 4) {
        fourRows(x, row);
        for (let j = 0; j < 4; j++) y[row + j] = bias ? sums[j]! + bias[row + j]! : sums[j]!;
      }
      for (let row = whole; row < out; row++) {
        fill(row, row + 1, rest!);
        let sum = 0;
        for (let k = 0; k < inp; k++) sum += x[k]! * rest![k]!;
        y[row] = bias ? sum + bias[row]! : sum;
      }
    },
  };
}

function byteWeight(codes: Uint8Array, [out, inp]: Matrix, group: number, { scale, zero }: Grid, bytes: number): HeldWeight {
  const perRow = inp / group;

  function fill(from: number, to: number, into: Float64Array): void {
    for (let g = from * perRow, i = 0; g < to * perRow; g++) {
      const s = scale[g]!;
      const z = zero[g]!;
      for (const end = i + group; i < end; i++) into[i] = f(f(codes[from * inp + i]! - z) * s);
    }
  }

  /** Sums of four rows, or of fewer at the end: a row past the last repeats the last. */
  function fourRows(x: Float64Array, row: number, sums: Float64Array): void {
    const last = out - 1;
    const [r1, r2, r3] = [Math.min(last, row + 1), Math.min(last, row + 2), Math.min(last, row + 3)];
    let [s0, s1, s2, s3] = [0, 0, 0, 0];
    for (let g = 0; g < perRow; g++) {
      const [g0, g1, g2, g3] = [row * perRow + g, r1 * perRow + g, r2 * perRow + g, r3 * perRow + g];
      const [z0, z1, z2, z3] = [zero[g0]!, zero[g1]!, zero[g2]!, zero[g3]!];
      const [w0, w1, w2, w3] = [scale[g0]!, scale[g1]!, scale[g2]!, scale[g3]!];
      const [c0, c1, c2, c3] = [row * inp, r1 * inp, r2 * inp, r3 * inp];
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

  const sums = new Float64Array(4);
  return {
    bytes,
    fill,
    multiplyRow(x, y, bias) {
      for (let row = 0; row < out; row += 4) {
        fourRows(x, row, sums);
        for (let j = 0; j < Math.min(4, out - row); j++) y[row + j] = bias ? sums[j]! + bias[row + j]! : sums[j]!;
      }
    },
  };
}
