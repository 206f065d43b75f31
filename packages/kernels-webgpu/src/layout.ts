// How a weight lies in device memory, from its format and shape alone. The order of codes is that of wgsl/weight.ts.

import {
  type Affine,
  type Codebook,
  codecFor,
  type Dense,
  type Format,
  type FormatCodec,
  grouping,
  type Int8,
  LowbitError,
  type Matrix,
  productDtype,
  storedColumns,
} from '@lowbit/core';

export type StoredFloat = 'f32' | 'f16' | 'bf16';
export const FLOAT_BYTES: Readonly<Record<StoredFloat, number>> = { f32: 4, f16: 2, bf16: 2 };

/** Inputs whose codes fill whole words. */
const CHUNK = 32;
/** Kernels count in 32 bits. */
const MOST = 2 ** 32 - 1;

export interface WeightLayout {
  readonly level: 'native' | 'repack' | 'dequant';
  readonly kind: 'dense' | 'grouped' | 'int8';
  readonly out: number;
  /** Of a row as it is stored. */
  readonly inp: number;
  /** Of a row of x. */
  readonly features: number;
  /** Rows of x are filled up to `inp` and multiplied by the Hadamard matrix in runs of so many. */
  readonly run?: number;
  /** Of each weight: words of a chunk, too. */
  readonly bits: number;
  /** Weights of a code. */
  readonly dim: 1 | 2;
  /** Whether a chunk, or 4 weights, have one scale; `flat`: groups may begin anywhere; `axis0`: they go down columns. */
  readonly grouping: 'chunk' | 'quad' | 'flat' | 'axis0';
  readonly group: number;
  readonly groups: number;
  readonly meta: StoredFloat;
  readonly stored: StoredFloat;
  readonly round: StoredFloat;
  /** 0: zeros are stored (or the format has a table). */
  readonly fixedZero: number;
  /** Numbers of the table; 0: none. */
  readonly table: number;
  readonly threshold: number;
  readonly rowWords: number;
}

/** Rows [from, to) of a weight: what one buffer holds. Sections are words from its beginning; codes begin at 0. */
export interface WeightPiece {
  readonly from: number;
  readonly to: number;
  readonly firstGroup: number;
  readonly groups: number;
  readonly scale: number;
  readonly zero: number;
  readonly table: number;
  /** Where a bias would be. */
  readonly bias: number;
  /** Bytes without a bias. */
  readonly bytes: number;
}

function unsupported(message: string, hint?: string): LowbitError {
  return new LowbitError('ERR_UNSUPPORTED_FORMAT', `kernels-webgpu: ${message}`, { hint });
}

/** What a device limits. */
export interface LayoutLimits {
  /** Bytes of one binding. */
  readonly binding: number;
  /** Bytes of workgroup memory. */
  readonly workgroup: number;
}

/** How a weight would be held. Throws ERR_UNSUPPORTED_FORMAT where it is not. */
export function planLayout(format: Format, shape: Matrix, codecs: readonly FormatCodec[], limits: LayoutLimits): WeightLayout {
  codecFor(format, codecs).parts(format, shape); // throws where the format cannot hold the shape
  const layout = layoutOf(format, shape);
  if (layout.out * layout.inp > MOST) throw unsupported(`a weight of [${shape.join(', ')}] has more numbers than kernels count`);
  if (layout.run !== undefined && layout.run * 4 > limits.workgroup) {
    throw unsupported(`rotations in runs of ${layout.run} do not fit this GPU's ${limits.workgroup} bytes of workgroup memory`);
  }
  piecesOf(layout, limits);
  return layout;
}

const PLAIN = {
  dim: 1,
  grouping: 'chunk',
  group: 1,
  groups: 0,
  meta: 'f32',
  stored: 'f32',
  round: 'f32',
  fixedZero: 0,
  table: 0,
  threshold: 0,
} as const;

function rowWords(columns: number, bits: number): number {
  return Math.ceil(columns / CHUNK) * bits;
}

function layoutOf(format: Format, shape: Matrix): WeightLayout {
  const [out, inp] = shape;
  switch (format.kind) {
    case 'dense': {
      const { dtype } = format as Dense;
      if (dtype !== 'f32' && dtype !== 'f16' && dtype !== 'bf16') {
        throw unsupported(`a dense weight of ${dtype} is not multiplied here`, 'Store it as f32, f16 or bf16.');
      }
      return denseLayout(shape, dtype, 'native');
    }
    case 'affine':
      return affineLayout(format as Affine, shape);
    case 'codebook':
      return codebookLayout(format as Codebook, shape);
    case 'int8': {
      const { threshold } = format as Int8;
      if (inp > 2 ** 17)
        throw unsupported(`LLM.int8 with ${inp} inputs would overflow its sums`, 'Use a format of floating point products.');
      const held = { level: 'repack', kind: 'int8', out, inp, features: inp, bits: 8, groups: out, threshold } as const;
      return { ...PLAIN, ...held, rowWords: rowWords(inp, 8) };
    }
    default:
      // A third party's numbers: its codec makes floats of them.
      return denseLayout(shape, 'f32', 'dequant');
  }
}

function denseLayout([out, inp]: Matrix, stored: StoredFloat, level: WeightLayout['level']): WeightLayout {
  const bits = 8 * FLOAT_BYTES[stored];
  return { ...PLAIN, level, kind: 'dense', out, inp, features: inp, bits, stored, rowWords: rowWords(inp, bits) };
}

/** The dtype in which numbers of these dtypes are kept, exactly. */
function metaOf(...stored: readonly unknown[]): StoredFloat {
  if (stored.every((dtype) => dtype === 'f16')) return 'f16';
  return stored.every((dtype) => dtype === 'bf16') ? 'bf16' : 'f32';
}

function groupingOf(inp: number, group: number): WeightLayout['grouping'] {
  if (inp % group !== 0) return 'flat';
  if (group % CHUNK === 0) return 'chunk';
  return group % 4 === 0 ? 'quad' : 'flat';
}

function affineLayout(format: Affine, shape: Matrix): WeightLayout {
  const [out, inp] = shape;
  const { group, groups } = grouping(format, shape);
  const { axis, levels, scale, zero } = format;
  const bits = Math.max(1, Math.ceil(Math.log2(levels)));
  return {
    ...PLAIN,
    ...{ level: 'repack', kind: 'grouped', out, inp, features: inp, bits, group, groups },
    grouping: axis === 0 ? 'axis0' : groupingOf(inp, group),
    meta: zero === 'none' ? metaOf(scale) : metaOf(scale, zero),
    fixedZero: zero === 'none' ? levels / 2 : 0,
    rowWords: rowWords(inp, bits),
  };
}

/** Rotated ones as the plain codebooks that they are in the rotated basis: rows of x are filled up and rotated on the way in. */
function codebookLayout(format: Codebook, shape: Matrix): WeightLayout {
  const { bits, dim, group, rotate, scale } = format;
  const [out, features] = shape;
  const inp = storedColumns(format, shape);
  const width = bits * dim;
  if (width > 8) throw unsupported(`codebooks with codes of ${width} bits are not multiplied here`, 'Use codes of up to 8 bits.');
  return {
    ...PLAIN,
    ...{ level: 'repack', kind: 'grouped', out, inp, features, bits, dim, group },
    groups: Math.ceil((out * inp) / group),
    grouping: groupingOf(inp, group),
    meta: metaOf(scale),
    round: productDtype(format),
    table: 2 ** width * dim,
    rowWords: rowWords(inp, bits),
    ...(rotate ? { run: rotate.block } : {}),
  };
}

/** Bytes of a buffer are multiples, so that 16 of them can be read at once. */
const ALIGN_WORDS = 4;
const aligned = (words: number): number => Math.ceil(words / ALIGN_WORDS) * ALIGN_WORDS;

/** The buffers of a weight, by rows. Throws ERR_UNSUPPORTED_FORMAT where a row alone does not fit a binding. */
export function piecesOf(layout: WeightLayout, { binding }: Pick<LayoutLimits, 'binding'>): readonly WeightPiece[] {
  const whole = pieceOf(layout, 0, layout.out);
  const room = binding - 4 * layout.out - 64; // for a bias
  if (whole.bytes <= room) return [whole];
  // What is there once in every piece: tables, and along axis 0 the numbers of all groups.
  const once = pieceOf(layout, 0, 1).bytes;
  const perRow = (whole.bytes - once) / Math.max(1, layout.out - 1);
  let rows = Math.floor((room - once) / Math.max(1, perRow));
  while (rows > 0 && pieceOf(layout, 0, rows).bytes > room) rows--;
  if (rows < 1) {
    throw unsupported(
      `a row of a weight [${layout.out}, ${layout.inp}] and the numbers of its groups do not fit the ${binding} bytes that this GPU binds`,
      'Use another GPU or backend.',
    );
  }
  const pieces: WeightPiece[] = [];
  for (let from = 0; from < layout.out; from += rows) pieces.push(pieceOf(layout, from, Math.min(layout.out, from + rows)));
  return pieces;
}

function pieceOf(layout: WeightLayout, from: number, to: number): WeightPiece {
  const { inp, kind, group, meta, table, fixedZero } = layout;
  let firstGroup = 0;
  let groups = 0;
  if (kind === 'int8') [firstGroup, groups] = [from, to - from];
  if (kind === 'grouped') {
    if (layout.grouping === 'axis0') groups = layout.groups;
    else {
      firstGroup = Math.floor((from * inp) / group);
      groups = Math.ceil((to * inp) / group) - firstGroup;
    }
  }
  const numbers = Math.ceil((groups * FLOAT_BYTES[meta]) / 4);
  const scale = aligned((to - from) * layout.rowWords);
  const zero = scale + aligned(numbers);
  const tableAt = zero + (kind === 'grouped' && table === 0 && fixedZero === 0 ? aligned(numbers) : 0);
  const bias = tableAt + aligned(table);
  return { from, to, firstGroup, groups, scale, zero, table: tableAt, bias, bytes: 4 * bias };
}

/** Bytes of a piece with its bias. */
export function pieceBytes(piece: WeightPiece, { bias }: { readonly bias: boolean }): number {
  return 4 * aligned(piece.bias + (bias ? piece.to - piece.from : 0));
}
