// How a weight lies in device memory, from its format and shape alone. The header is `Weight` of native/kernels/weight.cuh.

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
import type { StoredFloat } from './binding.ts';

const KINDS = { dense: 0, grouped: 1, int8: 2 } as const;
const FLOATS: Readonly<Record<StoredFloat, number>> = { f32: 0, f16: 1, bf16: 2 };
export const FLOAT_BYTES: Readonly<Record<StoredFloat, number>> = { f32: 4, f16: 2, bf16: 2 };

export const HEADER_BYTES = 128;
/** QuickTable of native/kernels/gemv.cuh, filled up. */
const QUICK_BYTES = 48;
/** Sections begin at multiples: kernels read 16 bytes at once. */
const ALIGN = 16;
/** Inputs of a block of activations in the fast products: groups are multiples. */
const QUICK_BLOCK = 32;
/** Numbers of a run that fit the shared memory of a block. */
const LONGEST_RUN = 8192;
/** Inputs that a wide product takes at once. */
const WIDE = 8;
/** Bits a code and numbers of one: the codebooks of native/kernels/codebook.cuh. */
const CODEBOOKS = ['8 2', '6 2', '4 2', '8 1', '4 1', '3 1', '2 1'];
/** Kernels count in 32 bits. */
const MOST = 2 ** 31 - 1;

export interface WeightLayout {
  readonly level: 'native' | 'repack' | 'dequant';
  readonly kind: keyof typeof KINDS;
  readonly out: number;
  /** Of a row as it is stored. */
  readonly inp: number;
  /** Of a row of x. */
  readonly features: number;
  /** Rows of x are filled up to `inp` and multiplied by the Hadamard matrix in runs of so many. */
  readonly run?: number;
  readonly bits: number;
  readonly dim: 1 | 2;
  readonly axis: 0 | 1;
  readonly group: number;
  readonly groups: number;
  readonly rowWords: number;
  readonly meta: StoredFloat;
  readonly stored: StoredFloat;
  readonly round: StoredFloat;
  /** How many zeros there are, or the one of all groups. */
  readonly zeros: number;
  readonly fixedZero: number;
  /** Numbers of the table; 0: none. */
  readonly table: number;
  readonly threshold: number;
  /** Which of the fast products take it. */
  readonly quick?: 'affine' | 'table';
  /** A codebook that native/kernels/codebook.cuh multiplies by one or two rows. */
  readonly codebook: boolean;
  /** Rows and groups are multiples of 8 inputs: products in floating point take as many at once. */
  readonly wide: boolean;
  readonly codeBytes: number;
}

const aligned = (bytes: number): number => Math.ceil(bytes / ALIGN) * ALIGN;

/** Where the sections are. Those of `meta` count from its own beginning. */
export interface Sections {
  readonly codes: number;
  readonly bias: number;
  /** Scale, zero, table and quick table. */
  readonly scale: number;
  readonly zero: number;
  readonly table: number;
  readonly quick: number;
  /** Bytes without a bias. */
  readonly deviceBytes: number;
  readonly hostBytes: number;
}

/** `offload`: scales, zeros and tables are in memory of the host. A bias comes after all else. */
export function sections(layout: WeightLayout, { offload }: { readonly offload: boolean }): Sections {
  const codes = HEADER_BYTES;
  const afterCodes = codes + aligned(layout.codeBytes);
  let at = offload ? 0 : afterCodes;
  const take = (bytes: number): number => {
    const from = at;
    at += aligned(bytes);
    return from;
  };
  const scale = take(layout.groups * FLOAT_BYTES[layout.meta]);
  const zero = take(layout.zeros * FLOAT_BYTES[layout.meta]);
  const table = take(4 * layout.table);
  const quick = take(layout.quick === 'table' ? QUICK_BYTES : 0);
  const deviceBytes = offload ? afterCodes : at;
  return { codes, bias: deviceBytes, scale, zero, table, quick, deviceBytes, hostBytes: offload ? at : 0 };
}

/** Whether there is something to keep on the host. */
export function canOffload({ kind }: WeightLayout): boolean {
  return kind === 'grouped';
}

function unsupported(message: string, hint?: string): LowbitError {
  return new LowbitError('ERR_UNSUPPORTED_FORMAT', `kernels-cuda: ${message}`, { hint });
}

const PLAIN = {
  bits: 8,
  dim: 1,
  axis: 1,
  group: 1,
  groups: 0,
  meta: 'f32',
  stored: 'f32',
  round: 'f32',
  zeros: 0,
  fixedZero: 0,
  table: 0,
  threshold: 0,
  codebook: false,
  wide: false,
} as const;

/** How a weight would be held. Throws ERR_UNSUPPORTED_FORMAT where it is not. */
export function planLayout(format: Format, shape: Matrix, codecs: readonly FormatCodec[]): WeightLayout {
  codecFor(format, codecs).parts(format, shape); // throws where the format cannot hold the shape
  const layout = layoutOf(format, shape);
  if (Math.max(layout.out, layout.inp * 8, layout.groups) > MOST) {
    throw unsupported(`a weight of [${shape.join(', ')}] has more rows, inputs or groups than kernels count`);
  }
  return layout;
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
      const rowWords = Math.ceil(inp / 4);
      const { threshold } = format as Int8;
      if (inp > 2 ** 17)
        throw unsupported(`LLM.int8 with ${inp} inputs would overflow its sums`, 'Use a format of floating point products.');
      return {
        ...PLAIN,
        level: 'repack',
        kind: 'int8',
        out,
        inp,
        features: inp,
        rowWords,
        groups: out,
        threshold,
        codeBytes: 4 * out * rowWords,
      };
    }
    default:
      // A third party's numbers: its codec makes floats of them.
      return denseLayout(shape, 'f32', 'dequant');
  }
}

function denseLayout([out, inp]: Matrix, stored: StoredFloat, level: WeightLayout['level']): WeightLayout {
  return {
    ...PLAIN,
    level,
    kind: 'dense',
    out,
    inp,
    features: inp,
    rowWords: 0,
    stored,
    wide: inp % WIDE === 0,
    codeBytes: out * inp * FLOAT_BYTES[stored],
  };
}

/** The dtype in which numbers of these dtypes are kept, exactly. */
function metaOf(...stored: readonly unknown[]): StoredFloat {
  if (stored.every((dtype) => dtype === 'f16')) return 'f16';
  return stored.every((dtype) => dtype === 'bf16') ? 'bf16' : 'f32';
}

function codesOf(out: number, columns: number, bits: number): Pick<WeightLayout, 'bits' | 'rowWords' | 'codeBytes'> {
  const rowWords = Math.ceil((columns * bits) / 32);
  return { bits, rowWords, codeBytes: 4 * out * rowWords };
}

function affineLayout(format: Affine, shape: Matrix): WeightLayout {
  const [out, inp] = shape;
  const { group, groups } = grouping(format, shape);
  const { axis, levels, scale, zero } = format;
  const bits = Math.max(1, Math.ceil(Math.log2(levels)));
  const quick = axis === 1 && inp % group === 0 && group % QUICK_BLOCK === 0;
  return {
    ...PLAIN,
    ...codesOf(out, inp, bits),
    ...{ level: 'repack', kind: 'grouped', out, inp, features: inp, axis, group, groups },
    meta: zero === 'none' ? metaOf(scale) : metaOf(scale, zero),
    zeros: zero === 'none' ? 0 : groups,
    fixedZero: zero === 'none' ? levels / 2 : 0,
    wide: inp % WIDE === 0 && (axis === 1 ? inp % group === 0 && group % WIDE === 0 : groups % WIDE === 0),
    ...(quick ? { quick: 'affine' as const } : {}),
  };
}

/** Rotated ones as the plain codebooks that they are in the rotated basis: rows of x are filled up and rotated on the way in. */
function codebookLayout(format: Codebook, shape: Matrix): WeightLayout {
  const { bits, dim, group, rotate, scale } = format;
  const [out, features] = shape;
  const inp = storedColumns(format, shape);
  const width = bits * dim;
  if (width > 8) throw unsupported(`codebooks with codes of ${width} bits are not multiplied here`, 'Use codes of up to 8 bits.');
  if (rotate && rotate.block > LONGEST_RUN) throw unsupported(`rotations in runs of ${rotate.block} do not fit a GPU's shared memory`);
  const round = productDtype(format);
  const quick = !rotate && width === 4 && dim === 1 && round === 'f32' && inp % group === 0 && group % QUICK_BLOCK === 0;
  return {
    ...PLAIN,
    ...codesOf(out, inp / dim, width),
    ...{ level: 'repack', kind: 'grouped', out, inp, features, dim, group, round },
    groups: Math.ceil((out * inp) / group),
    meta: metaOf(scale),
    table: 2 ** width * dim,
    codebook: inp % group === 0 && group % QUICK_BLOCK === 0 && CODEBOOKS.includes(`${width} ${dim}`),
    wide: inp % WIDE === 0 && inp % group === 0 && group % WIDE === 0,
    ...(rotate ? { run: rotate.block } : {}),
    ...(quick ? { quick: 'table' as const } : {}),
  };
}

/** The header, for buffers at these addresses; `bias`: whether there is one. */
export function writeHeader(
  layout: WeightLayout,
  places: Sections,
  at: { readonly device: bigint; readonly host: bigint | undefined },
  { bias }: { readonly bias: boolean },
): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  const meta = at.host ?? at.device;
  const address = (index: number, base: bigint, offset: number, there: boolean): void =>
    view.setBigUint64(8 * index, there ? base + BigInt(offset) : 0n, true);
  address(0, at.device, places.codes, true);
  address(1, meta, places.scale, layout.groups > 0);
  address(2, meta, places.zero, layout.zeros > 0);
  address(3, meta, places.table, layout.table > 0);
  address(4, at.device, places.bias, bias);
  address(5, meta, places.quick, layout.quick === 'table');
  const { kind, out, inp, bits, dim, axis, group, groups, rowWords } = layout;
  const perRow = kind === 'grouped' && axis === 1 && inp % group === 0 ? inp / group : 0;
  const ints = [KINDS[kind], out, inp, bits, dim, axis, group, groups, perRow, rowWords];
  for (const [i, value] of [...ints, FLOATS[layout.meta], FLOATS[layout.stored], FLOATS[layout.round]].entries()) {
    view.setInt32(48 + 4 * i, value, true);
  }
  view.setFloat32(100, layout.fixedZero, true);
  view.setFloat32(104, layout.threshold, true);
  return bytes;
}

/** Largest integer of a quick table: 0x7f7f, each of whose bytes can have either sign. */
const QUICK_MOST = 32639;
/** The table of the call before: all weights of a model have the same. */
let lastQuick: { readonly table: string; readonly bytes: Uint8Array } | undefined;

/**
 * A table of 16 numbers as integers of 16 bits in two bytes, times a step: `QuickTable` of native/kernels/gemv.cuh. Of the steps that make the largest number
 * an integer, the one whose multiples come closest to all: FP4 is exact then.
 */
export function quickTable(table: Float32Array): Uint8Array {
  const key = table.join();
  if (lastQuick?.table !== key) lastQuick = { table: key, bytes: makeQuickTable(table) };
  return lastQuick.bytes;
}

function makeQuickTable(table: Float32Array): Uint8Array {
  const largest = table.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const bytes = new Uint8Array(QUICK_BYTES);
  if (!(largest > 0)) return bytes;
  let step = 0;
  let least = Number.POSITIVE_INFINITY;
  for (let most = Math.ceil(QUICK_MOST / 2); most <= QUICK_MOST; most++) {
    const tried = largest / most;
    let worst = 0;
    for (const value of table) worst = Math.max(worst, Math.abs(value - tried * Math.round(value / tried)));
    if (worst >= least) continue;
    least = worst;
    step = tried;
  }
  const view = new DataView(bytes.buffer);
  for (const [i, value] of table.entries()) {
    const q = Math.round(value / step);
    const low = ((q + 128) & 255) - 128;
    view.setInt8(i, (q - low) / 256);
    view.setInt8(16 + i, low);
  }
  view.setFloat32(32, step, true);
  return bytes;
}
