// Reading the `hqq` layout. The tensors are normative, not the config block: bits, packing, axis and group are stored with every layer, and
// published files with wrong or missing blocks exist. Of each layer only the small tensors are read.
//
// hqq before 0.2.0 could quantize scales and zeros, too. Such layers exist in its pickles, which appear here in the same form with `scale_q` in place of
// `scale`, and what describes it under `meta_scale.` (and so for zeros), and in safetensors of lowbit's own, with a version (hqq-nested.ts).
//
// Nothing is guessed: packing, axis and shape are stored or the layer is refused. (A pickle without an axis has it filled in before it comes here.)

import type { Affine, Matrix, StoredLinear, TensorSource, TensorSpec } from '@lowbit/core';
import { elementCount, FLOAT_DTYPES, grouping, LowbitError, packing, quote } from '@lowbit/core';
import { META_DTYPES, NESTED_VERSION, NESTED_VERSION_KEY, partsOf, storedCodes } from './hqq-format.ts';
import { affine, checkViewType, entry, readGrid, readNumbers } from './hqq-numbers.ts';
import { fail, readFlag, readIntegers, readNumber } from './hqq-values.ts';
import { specText, tensorName } from './names.ts';

/** Layers whose small tensors are read at the same time. */
const CONCURRENT = 16;

/** Every linear with a `W_q`, by module path. Throws ERR_TENSOR_MISMATCH or ERR_UNSUPPORTED_FORMAT naming the tensor. */
export async function readHqqLinears(
  source: TensorSource,
  { signal }: { readonly signal?: AbortSignal | undefined } = {},
): Promise<ReadonlyMap<string, StoredLinear>> {
  const paths = [...source.entries.keys()].filter((name) => name.endsWith('.W_q')).map((name) => name.slice(0, -'.W_q'.length));
  const linears = new Map<string, StoredLinear>();
  for (let i = 0; i < paths.length; i += CONCURRENT) {
    signal?.throwIfAborted();
    const some = paths.slice(i, i + CONCURRENT);
    const stored = await Promise.all(some.map((path) => readHqqLinear(source, path)));
    for (const [j, path] of some.entries()) linears.set(path, stored[j]!);
  }
  return linears;
}

/** One linear: of a checkpoint by its module path, of a state dict by the empty path. Throws as `readHqqLinears`. */
export async function readHqqLinear(source: TensorSource, path: string): Promise<StoredLinear> {
  const key = (name: string) => tensorName(path, name);
  const [grid, dims, viewed, inGroups] = await Promise.all([
    readGrid(source, path),
    readIntegers(source, key('shape')),
    readFlag(source, key('view_as_float')),
    readFlag(source, key('channel_wise')),
    checkVersion(source, path),
  ]);
  const shape =
    matrixOf(dims) ??
    fail(key('shape'), dims === undefined ? 'is missing, the layer is incomplete' : `is [${dims.join(', ')}], not two extents`);
  const [scale, zero] = await Promise.all([readNumbers(source, path, 'scale'), readNumbers(source, path, 'zero')]);

  if (scale.scalar && grid.packing === '3bit_32') {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${quote(key('packing'))}: 3-bit codes with one scale for the whole weight`, {
      hint: 'hqq itself does not dequantize such layers. Quantize the model again, in groups.',
      details: { tensor: key('packing') },
    });
  }
  if (inGroups !== undefined && inGroups === scale.scalar) {
    fail(key('channel_wise'), inGroups ? 'is 1, but there is one scale without a dimension' : `is 0, but there are ${scale.count} scales`);
  }
  const format = affine(grid, elementCount(shape), scale, zero, key('group_size'));
  const parts = partsOrFail(format, shape, key('W_q'), scale.scalar);
  const codes = entry(source, key('W_q'));
  // Without the flag (files of early versions) a float dtype says it.
  const isView = viewed ?? META_DTYPES.has(codes.dtype);
  const expected = isView ? storedCodes(parts.codes!, codes.dtype) : parts.codes!;
  if ((isView && !META_DTYPES.has(codes.dtype)) || expected === undefined || !fits(codes, expected, scale.scalar)) {
    const wanted = expected === undefined || !META_DTYPES.has(codes.dtype) ? specText(parts.codes!) : specText(expected);
    fail(key('W_q'), `is ${specText(codes)}, expected ${wanted}${isView ? ' seen as floats' : ''}`);
  }
  checkViewType(grid, parts.codes!.dtype);
  const { groups } = grouping(format, shape);
  for (const { stored, names, count, shapeKey } of [scale, zero]) {
    if (shapeKey !== undefined && count !== groups) fail(shapeKey, `is of ${count} numbers, but the layer has ${groups} groups`);
    for (const [part, name] of Object.entries(names)) {
      const actual = entry(source, name);
      if (!fits(actual, parts[part]!, typeof stored !== 'string')) fail(name, `is ${specText(actual)}, expected ${specText(parts[part]!)}`);
    }
  }
  const bias = source.entries.get(key('bias'));
  if (bias !== undefined && (!FLOAT_DTYPES.has(bias.dtype) || bias.shape.length !== 1 || bias.shape[0] !== shape[0])) {
    fail(key('bias'), `is ${specText(bias)}, expected ${shape[0]} numbers`);
  }
  return {
    format,
    shape,
    parts: { codes: key('W_q'), ...scale.names, ...zero.names },
    ...(bias === undefined ? {} : { bias: key('bias') }),
  };
}

/** Layers in safetensors with quantized scales or zeros must say which version of them they are. Pickles have no `encoded_state_dict`. */
async function checkVersion(source: TensorSource, path: string): Promise<void> {
  const key = (name: string) => tensorName(path, name);
  const versionKey = key(NESTED_VERSION_KEY);
  const [version, scale, zero] = await Promise.all([
    readNumber(source, versionKey),
    readFlag(source, key('quant_scale')),
    readFlag(source, key('quant_zero')),
  ]);
  if (version === NESTED_VERSION) return;
  if (version !== undefined) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${quote(versionKey)} is ${version}; this lowbit reads ${NESTED_VERSION}`, {
      hint: 'Use a later version of lowbit, or quantize the model again.',
      details: { tensor: versionKey, version },
    });
  }
  if (!(scale || zero) || !source.entries.has(key('encoded_state_dict'))) return;
  const flag = key(scale ? 'quant_scale' : 'quant_zero');
  throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${quote(flag)} is set, but there is no ${NESTED_VERSION_KEY} that says how`, {
    hint: 'No version of hqq writes this to safetensors. Quantize the model again.',
    details: { tensor: flag },
  });
}

/** `whole`: one grid for the whole weight, whose own rows the library packs. */
function partsOrFail(format: Affine, shape: Matrix, tensor: string, whole: boolean): Readonly<Record<string, TensorSpec>> {
  try {
    const parts = partsOf(format, shape);
    return whole ? { ...parts, codes: { dtype: parts.codes!.dtype, shape: packing(format.packing).shape(...shape) } } : parts;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${quote(tensor)}: ${reason}`, { details: { tensor }, cause });
  }
}

function sameSpec(a: TensorSpec, b: TensorSpec): boolean {
  return a.dtype === b.dtype && a.shape.length === b.shape.length && a.shape.every((extent, i) => extent === b.shape[i]);
}

/** True if the bytes are those of the part. `loose`: its elements may have another shape, as single numbers always may. */
function fits(actual: TensorSpec, part: TensorSpec, loose: boolean): boolean {
  if (!loose && actual.shape.length > 0) return sameSpec(actual, part);
  return actual.dtype === part.dtype && elementCount(actual.shape) === elementCount(part.shape);
}

function matrixOf(dims: readonly number[] | undefined): Matrix | undefined {
  if (dims === undefined || dims.length !== 2) return undefined;
  const [out, inp] = dims as [number, number];
  return out > 0 && inp > 0 && Number.isSafeInteger(out * inp) ? [out, inp] : undefined;
}
