// How the codes of an hqq layer lie, and where their scales and zeros are: of a weight, and of scales and zeros that are quantized themselves.

import type { Affine, DType, TensorSource, TensorSpec } from '@lowbit/core';
import { elementCount, LowbitError, quote } from '@lowbit/core';
import { HQQ_PACKINGS, levelsOf, META_DTYPES, TORCH_DTYPES } from './hqq-format.ts';
import { fail, readFlag, readIntegers, readNumber, readString } from './hqq-values.ts';
import { tensorName } from './names.ts';

/** How codes are laid out: of a weight, or of its quantized scales or zeros. */
export interface Grid {
  /** Where it is stored: a module path, or that and `meta_scale`. */
  readonly prefix: string;
  readonly packing: string;
  readonly levels: number;
  readonly axis: 0 | 1;
  /** Absent where it is None. */
  readonly group: number | undefined;
  readonly viewType: string | undefined;
}

/** Reads how codes lie. Throws ERR_TENSOR_MISMATCH for what is missing or contradicts itself, ERR_UNSUPPORTED_FORMAT for an unknown packing. */
export async function readGrid(source: TensorSource, prefix: string): Promise<Grid> {
  const key = (name: string) => tensorName(prefix, name);
  const [packing, nbits, group, axis, viewType] = await Promise.all([
    readString(source, key('packing')),
    readNumber(source, key('nbits')),
    readNumber(source, key('group_size')),
    readNumber(source, key('axis')),
    readString(source, key('unpack_view_dtype')),
  ]);
  if (packing === undefined) fail(key('packing'), 'is missing, the layer is incomplete');
  if (!HQQ_PACKINGS.has(packing)) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${key('packing')}: no packing is called ${quote(packing)}`, {
      hint: `Known: ${[...HQQ_PACKINGS.keys()].join(', ')}.`,
      details: { tensor: key('packing'), packing },
    });
  }
  const levels = levelsOf(packing, nbits) ?? fail(key('nbits'), `is ${nbits}, which ${packing} does not hold`);
  if (axis !== 0 && axis !== 1) fail(key('axis'), axis === undefined ? 'is missing, the layer is incomplete' : `is ${axis}, not 0 or 1`);
  return { prefix, packing, levels, axis, group, viewType };
}

/** Scales or zeros as they are stored. */
export interface StoredNumbers {
  readonly stored: DType | Affine;
  /** How many there are; one number without a dimension is for the whole weight. */
  readonly count: number;
  readonly scalar: boolean;
  /** Tensor that says how many there are, where they are quantized. */
  readonly shapeKey?: string;
  /** Part -> tensor. */
  readonly names: Readonly<Record<string, string>>;
}

/** Finds the scales or the zeros of a layer. Throws as `readGrid`. */
export async function readNumbers(source: TensorSource, path: string, what: 'scale' | 'zero'): Promise<StoredNumbers> {
  const key = (name: string) => tensorName(path, name);
  if (!(await readFlag(source, key(`quant_${what}`)))) return plainNumbers(source, key(what), what);
  const codes = source.entries.get(key(`${what}_q`));
  if (codes === undefined) {
    throw new LowbitError(
      'ERR_UNSUPPORTED_FORMAT',
      `${key(`quant_${what}`)} says that this is quantized itself, but there is no ${what}_q`,
      {
        hint: 'No version of hqq writes this. Quantize the model again.',
        details: { tensor: key(`quant_${what}`) },
      },
    );
  }
  const meta = key(`meta_${what}`);
  const [grid, dims, viewed] = await Promise.all([
    readGrid(source, meta),
    readIntegers(source, `${meta}.shape`),
    readFlag(source, `${meta}.view_as_float`),
  ]);
  const count = dims?.reduce((product, extent) => product * extent, 1) ?? fail(`${meta}.shape`, 'is missing, the layer is incomplete');
  if (!Number.isSafeInteger(count) || count < 1) fail(`${meta}.shape`, `is [${dims?.join(', ')}]`);
  if (viewed) fail(`${meta}.view_as_float`, 'is set, which quantized scales and zeros never are');
  const scale = plainNumbers(source, `${meta}.scale`, `${what}.scale`);
  const zero = plainNumbers(source, `${meta}.zero`, `${what}.zero`);
  checkViewType(grid, codes.dtype);
  return {
    stored: affine(grid, count, scale, zero, `${meta}.group_size`),
    count,
    scalar: false,
    shapeKey: `${meta}.shape`,
    names: { [`${what}.codes`]: key(`${what}_q`), ...scale.names, ...zero.names },
  };
}

function plainNumbers(source: TensorSource, name: string, part: string): StoredNumbers & { readonly stored: DType } {
  const { dtype, shape } = entry(source, name);
  if (!META_DTYPES.has(dtype)) fail(name, `is ${dtype}, not f16, bf16 or f32`);
  return { stored: dtype, count: elementCount(shape), scalar: shape.length === 0, names: { [part]: name } };
}

/** The format of `count` codes. `groupName` is for messages. */
export function affine(grid: Grid, count: number, scale: StoredNumbers, zero: StoredNumbers, groupName: string): Affine {
  // One number for all: along axis 0, where a group of everything packs into the same bytes as the matrix itself.
  const group = scale.scalar ? count : (grid.group ?? count / scale.count);
  if (!Number.isSafeInteger(group) || group < 1 || count % group !== 0)
    fail(groupName, `is ${group}, which does not divide ${count} weights`);
  const { levels, packing } = grid;
  return { kind: 'affine', levels, group, axis: scale.scalar ? 0 : grid.axis, scale: scale.stored, zero: zero.stored, packing };
}

/** Throws ERR_TENSOR_MISMATCH if the file says that codes are packed in another dtype than they are. */
export function checkViewType({ prefix, viewType, packing }: Grid, dtype: DType): void {
  if (viewType === undefined || TORCH_DTYPES.get(viewType) === dtype) return;
  fail(`${prefix}.unpack_view_dtype`, `is ${quote(viewType)}, but ${packing} is packed in ${dtype}`);
}

/** What the file says of a tensor. Throws ERR_TENSOR_MISMATCH if it is not there. */
export function entry(source: TensorSource, name: string): TensorSpec {
  return source.entries.get(name) ?? fail(name, 'is missing, the layer is incomplete');
}
