// Which of the backend's layouts takes a weight, from its format and shape alone.
//
// Tiles of 16 rows are for integer products: they want groups that end where rows do and are multiples of a few inputs. What they do not take is kept as
// packed codes and multiplied as floats, at a fraction of the speed and the same size.

import {
  type Affine,
  type Codebook,
  codecFor,
  type Dense,
  type Format,
  type FormatCodec,
  type FormatNumbers,
  grouping,
  type Int8,
  LowbitError,
  type Matrix,
  productDtype,
  storedColumns,
} from '@lowbit/core';
import type { CodebookSpec, StoredFloat, WeightNumbers, WeightSpec } from './binding.ts';

/** A layout, and how the codec's numbers go into it. */
export interface LayoutPlan {
  readonly spec: WeightSpec;
  readonly level: 'native' | 'repack' | 'dequant';
  /** Codes that a table has entries for, where the packing has room for more. */
  readonly codes?: number;
  numbers(found: FormatNumbers): WeightNumbers;
  /** Numbers of tiles that can go in as the file has them: names of the parts, or the zero of all groups; blocks that share one. */
  readonly asStored?: { readonly scale: string; readonly zero: string | number; readonly repeat: number };
}

type TileCodes = Extract<WeightSpec, { kind: 'tiles' }>['codes'];

/** Inputs of a unit of codes: blocks are multiples of it. */
const UNIT: Readonly<Record<TileCodes, number>> = { c8: 4, c4: 8, c3: 32, c2: 16, c1: 32, table4: 8, pairs8: 8, pairs6: 32, pairs4: 16 };
/** Entries of the tables of codebooks in tiles. */
const ENTRIES = { table4: 16, pairs8: 256, pairs6: 64, pairs4: 16 } as const;
/** As in native/dispatch/layout.h. */
const LONGEST_BLOCK = 128;
const SHORTEST_BLOCK = 8;

function unsupported(message: string, hint?: string): LowbitError {
  return new LowbitError('ERR_UNSUPPORTED_FORMAT', `kernels-cpu: ${message}`, { hint });
}

/** How a weight would be held. Throws ERR_UNSUPPORTED_FORMAT where it is not. */
export function planLayout(format: Format, shape: Matrix, codecs: readonly FormatCodec[]): LayoutPlan {
  codecFor(format, codecs).parts(format, shape); // throws where the format cannot hold the shape
  switch (format.kind) {
    case 'dense':
      return planDense(format as Dense, shape);
    case 'affine':
      return planAffine(format as Affine, shape);
    case 'codebook':
      return planCodebook(format as Codebook, shape);
    case 'int8':
      return planInt8(format as Int8, shape);
    default:
      // A third party's numbers: its codec makes floats of them.
      return { spec: { kind: 'dense', out: shape[0], inp: shape[1], dtype: 'f32' }, level: 'dequant', numbers: () => ({}) };
  }
}

function planDense({ dtype }: Dense, [out, inp]: Matrix): LayoutPlan {
  if (dtype !== 'f32' && dtype !== 'f16' && dtype !== 'bf16') {
    throw unsupported(`a dense weight of ${dtype} is not multiplied here`, 'Store it as f32, f16 or bf16.');
  }
  return { spec: { kind: 'dense', out, inp, dtype }, level: 'native', numbers: () => ({}) };
}

function planInt8({ threshold }: Int8, [out, inp]: Matrix): LayoutPlan {
  return { spec: { kind: 'int8', out, inp, block: 64, threshold }, level: 'repack', numbers: ({ scale }) => ({ scale }) };
}

/** Longest block that divides `group`, for codes of that kind; undefined if there is none. */
function blockOf(codes: TileCodes, group: number): number | undefined {
  for (let block = LONGEST_BLOCK; block >= SHORTEST_BLOCK; block -= UNIT[codes] % 4 === 0 ? UNIT[codes] : 4) {
    if (group % block === 0) return block;
  }
  return undefined;
}

/** Kinds of codes that hold so many levels, the smallest first. */
function codesFor(levels: number): readonly TileCodes[] {
  if (levels <= 2) return ['c1', 'c2', 'c4', 'c8'];
  if (levels <= 4) return ['c2', 'c4', 'c8'];
  if (levels <= 8) return ['c3', 'c4', 'c8'];
  return levels <= 16 ? ['c4', 'c8'] : ['c8'];
}

/** The dtype in which tiles keep numbers of these dtypes, exactly. */
function metaOf(...stored: readonly unknown[]): StoredFloat {
  if (stored.every((dtype) => dtype === 'f16')) return 'f16';
  return stored.every((dtype) => dtype === 'bf16') ? 'bf16' : 'f32';
}

/** Numbers of groups of `group` inputs within rows, once for each block of `block`. */
function perBlock(values: Float32Array, group: number, block: number): Float32Array {
  const times = group / block;
  if (times === 1) return values;
  const repeated = new Float32Array(values.length * times);
  for (let i = 0; i < values.length; i++) repeated.fill(values[i]!, i * times, (i + 1) * times);
  return repeated;
}

function planAffine(format: Affine, shape: Matrix): LayoutPlan {
  const [out, inp] = shape;
  const { group, groups } = grouping(format, shape);
  const { axis, levels } = format;
  if (axis === 1 && inp % group === 0) {
    for (const codes of codesFor(levels)) {
      const block = blockOf(codes, group);
      if (block === undefined) continue;
      const meta = format.zero === 'none' ? metaOf(format.scale) : metaOf(format.scale, format.zero);
      return {
        spec: { kind: 'tiles', out, inp, codes, meta, zeros: true, block, classes: 1 },
        level: 'repack',
        numbers: ({ scale, zero }) => ({ scale: perBlock(scale, group, block), zero: perBlock(zero!, group, block) }),
        ...(meta === format.scale && (format.zero === 'none' || format.zero === meta)
          ? { asStored: { scale: 'scale', zero: format.zero === 'none' ? levels / 2 : 'zero', repeat: group / block } }
          : {}),
      };
    }
  }
  // Columns: rows `classes` apart share the scale of each input. Few rows a class would leave most of a tile empty.
  if (axis === 0 && groups % inp === 0 && group >= 12) {
    const codes = codesFor(levels)[0]!;
    const block = inp < LONGEST_BLOCK ? 64 : LONGEST_BLOCK;
    return {
      spec: { kind: 'tiles', out, inp, codes, meta: 'none', zeros: false, block, classes: groups / inp },
      level: 'repack',
      numbers: ({ scale, zero }) => ({ scale, zero }),
    };
  }
  const bits = levels <= 2 ? 1 : levels <= 4 ? 2 : levels <= 16 ? 4 : 8;
  return {
    spec: { kind: 'grouped', out, inp, bits, axis, group, groups, table: false },
    level: 'repack',
    numbers: ({ scale, zero }) => ({ scale, zero }),
  };
}

/** Kinds of codes for a table of so many entries, the smallest first. */
function tableCodes(dim: 1 | 2, entries: number): readonly (keyof typeof ENTRIES)[] {
  const kinds = dim === 1 ? (['table4'] as const) : (['pairs4', 'pairs6', 'pairs8'] as const);
  return kinds.filter((codes) => ENTRIES[codes] >= entries);
}

/** Rotated ones as the plain codebooks that they are in the rotated basis: rows of x are filled up and rotated on the way in. */
function planCodebook(format: Codebook, shape: Matrix): LayoutPlan {
  const { bits, dim, group, rotate, scale: stored } = format;
  const [out, features] = shape;
  const inp = storedColumns(format, shape);
  const width = bits * dim;
  if (width > 8) throw unsupported(`codebooks with codes of ${width} bits are not multiplied here`, 'Use codes of up to 8 bits.');
  const product = productDtype(format);
  const held: CodebookSpec = {
    ...(dim === 2 ? { dim } : {}),
    ...(product === 'f32' ? {} : { round: product }),
    ...(rotate ? { rotation: { block: rotate.block, features } } : {}),
  };
  const codes = 2 ** width;
  for (const kind of inp % group === 0 ? tableCodes(dim, codes) : []) {
    const block = blockOf(kind, group);
    if (block === undefined) continue;
    return {
      spec: { kind: 'tiles', out, inp, codes: kind, meta: metaOf(stored), zeros: false, block, classes: 1, ...held },
      level: 'repack',
      codes,
      numbers: ({ scale, table }) => ({ scale: perBlock(scale, group, block), table: padded(table!, ENTRIES[kind] * dim) }),
    };
  }
  const wide = width <= 1 ? 1 : width <= 2 ? 2 : width <= 4 ? 4 : 8;
  return {
    spec: { kind: 'grouped', out, inp, bits: wide, axis: 1, group, groups: Math.ceil((out * inp) / group), table: true, ...held },
    level: 'repack',
    codes,
    numbers: ({ scale, table }) => ({ scale, table: padded(table!, 2 ** wide * dim) }),
  };
}

/** Codes beyond the table are refused before they get here. */
function padded(table: Float32Array, length: number): Float32Array {
  if (table.length === length) return table;
  const longer = new Float32Array(length);
  longer.set(table);
  return longer;
}
