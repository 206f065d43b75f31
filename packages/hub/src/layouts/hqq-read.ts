// Reading the `hqq` layout. The tensors are normative, not the config block: bits, packing, axis and group are stored with every layer, and
// published files with wrong or missing blocks exist. Of each layer only the small tensors are read.

import {
  type Affine,
  DTYPE_BYTES,
  type DType,
  elementCount,
  type HostTensor,
  LowbitError,
  type Matrix,
  type StoredLinear,
  type TensorSource,
  type TensorSpec,
} from '@lowbit/core';
import { quote } from '../json/parse.ts';
import { HQQ_PACKINGS, levelsOf, META_DTYPES, partsOf, specText, storedCodes, TORCH_DTYPES } from './hqq-format.ts';

const INTEGERS: ReadonlySet<DType> = new Set<DType>(['u8', 'i8', 'u16', 'i16', 'u32', 'i32', 'i64', 'bool']);
/** Longest stored string: `torch.bfloat16` has 14 characters. */
const MAX_STRING = 64;
/** Layers whose small tensors are read at the same time. */
const CONCURRENT = 16;

/** Every linear with a `W_q`, by module path. Throws ERR_TENSOR_MISMATCH or ERR_UNSUPPORTED_FORMAT naming the tensor. */
export async function readHqqLinears(source: TensorSource): Promise<ReadonlyMap<string, StoredLinear>> {
  const paths = [...source.entries.keys()].filter((name) => name.endsWith('.W_q')).map((name) => name.slice(0, -'.W_q'.length));
  const linears = new Map<string, StoredLinear>();
  for (let i = 0; i < paths.length; i += CONCURRENT) {
    const some = paths.slice(i, i + CONCURRENT);
    const stored = await Promise.all(some.map((path) => readLinear(source, path)));
    for (const [j, path] of some.entries()) linears.set(path, stored[j]!);
  }
  return linears;
}

async function readLinear(source: TensorSource, path: string): Promise<StoredLinear> {
  const key = (name: string) => `${path}.${name}`;
  const spec = (name: string): TensorSpec => source.entries.get(key(name)) ?? fail(key(name), 'is missing, the layer is incomplete');

  const [packing, nbits, group, axis, dims, viewed, viewType, quantScale, quantZero] = await Promise.all([
    readString(source, key('packing')),
    readNumber(source, key('nbits')),
    readNumber(source, key('group_size')),
    readNumber(source, key('axis')),
    readIntegers(source, key('shape')),
    readNumber(source, key('view_as_float')),
    readString(source, key('unpack_view_dtype')),
    readNumber(source, key('quant_scale')),
    readNumber(source, key('quant_zero')),
  ]);
  if (quantScale || quantZero) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${key('quant_scale')}: scales and zeros of this layer are quantized themselves`, {
      hint: 'Such files were made by hqq before 0.2.2. Quantize the model again.',
      details: { tensor: key('W_q') },
    });
  }
  if (packing === undefined) fail(key('packing'), 'is missing, the layer is incomplete');
  if (!HQQ_PACKINGS.has(packing)) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${key('packing')}: no packing is called ${quote(packing)}`, {
      hint: `Known: ${[...HQQ_PACKINGS.keys()].join(', ')}.`,
      details: { tensor: key('packing'), packing },
    });
  }
  const levels = levelsOf(packing, nbits) ?? fail(key('nbits'), `is ${nbits}, which ${packing} does not hold`);
  if (axis !== 0 && axis !== 1) fail(key('axis'), axis === undefined ? 'is missing, the layer is incomplete' : `is ${axis}, not 0 or 1`);
  const shape =
    matrixOf(dims) ??
    fail(key('shape'), dims === undefined ? 'is missing, the layer is incomplete' : `is [${dims.join(', ')}], not two extents`);

  const scale = spec('scale');
  const zero = spec('zero');
  if (!META_DTYPES.has(scale.dtype)) fail(key('scale'), `is ${scale.dtype}, not f16, bf16 or f32`);
  if (!META_DTYPES.has(zero.dtype)) fail(key('zero'), `is ${zero.dtype}, not f16, bf16 or f32`);
  const size = group ?? elementCount(shape) / elementCount(scale.shape);
  if (!Number.isSafeInteger(size) || size < 1 || elementCount(shape) % size !== 0) {
    fail(key('group_size'), `is ${size}, which does not divide a weight of [${shape.join(', ')}]`);
  }

  const format: Affine = { kind: 'affine', levels, group: size, axis, scale: scale.dtype, zero: zero.dtype, packing };
  const parts = partsOrFail(format, shape, key('W_q'));
  const codes = spec('W_q');
  // Without the flag (files of early versions) a float dtype says it.
  const isView = viewed === undefined ? META_DTYPES.has(codes.dtype) : viewed !== 0;
  const expected = isView ? storedCodes(parts.codes!, codes.dtype) : parts.codes!;
  if ((isView && !META_DTYPES.has(codes.dtype)) || expected === undefined || !sameSpec(codes, expected)) {
    const wanted = expected === undefined || !META_DTYPES.has(codes.dtype) ? specText(parts.codes!) : specText(expected);
    fail(key('W_q'), `is ${specText(codes)}, expected ${wanted}${isView ? ' seen as floats' : ''}`);
  }
  if (viewType !== undefined && TORCH_DTYPES.get(viewType) !== parts.codes!.dtype) {
    fail(key('unpack_view_dtype'), `is ${quote(viewType)}, but ${packing} is packed in ${parts.codes!.dtype}`);
  }
  for (const [name, actual] of [
    ['scale', scale],
    ['zero', zero],
  ] as const) {
    if (!sameSpec(actual, parts[name]!)) fail(key(name), `is ${specText(actual)}, expected ${specText(parts[name]!)}`);
  }
  const bias = source.entries.get(key('bias'));
  if (bias !== undefined && (bias.shape.length !== 1 || bias.shape[0] !== shape[0])) {
    fail(key('bias'), `is ${specText(bias)}, expected ${shape[0]} numbers`);
  }
  return {
    format,
    shape,
    parts: { codes: key('W_q'), scale: key('scale'), zero: key('zero') },
    ...(bias === undefined ? {} : { bias: key('bias') }),
  };
}

function fail(tensor: string, problem: string): never {
  throw new LowbitError('ERR_TENSOR_MISMATCH', `${quote(tensor)} ${problem}`, {
    hint: 'The checkpoint is damaged or not in the encoded hqq layout (hqq >= 0.2.0).',
    details: { tensor },
  });
}

function partsOrFail(format: Affine, shape: Matrix, tensor: string): Readonly<Record<string, TensorSpec>> {
  try {
    return partsOf(format, shape);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${quote(tensor)}: ${reason}`, { details: { tensor }, cause });
  }
}

function sameSpec(a: TensorSpec, b: TensorSpec): boolean {
  return a.dtype === b.dtype && a.shape.length === b.shape.length && a.shape.every((extent, i) => extent === b.shape[i]);
}

function matrixOf(dims: readonly number[] | undefined): Matrix | undefined {
  if (dims === undefined || dims.length !== 2) return undefined;
  const [out, inp] = dims as [number, number];
  return out > 0 && inp > 0 && Number.isSafeInteger(out * inp) ? [out, inp] : undefined;
}

/** The tensor if it exists, after a check that it is small. */
async function readSmall(source: TensorSource, name: string, most: number): Promise<HostTensor | undefined> {
  const spec = source.entries.get(name);
  if (spec === undefined) return undefined;
  if (elementCount(spec.shape) > most || elementCount(spec.shape) === 0)
    fail(name, `is ${specText(spec)}, expected at most ${most} numbers`);
  return source.read(name);
}

/** Whole numbers of any integer dtype (versions differ). */
async function readIntegers(source: TensorSource, name: string): Promise<readonly number[] | undefined> {
  const tensor = await readSmall(source, name, MAX_STRING);
  if (tensor === undefined) return undefined;
  if (!INTEGERS.has(tensor.dtype)) fail(name, `is ${tensor.dtype}, expected integers`);
  return numbersOf(tensor);
}

/** One number: an integer of any width, or a float (`nbits` 1.58). */
async function readNumber(source: TensorSource, name: string): Promise<number | undefined> {
  const tensor = await readSmall(source, name, 1);
  return tensor === undefined ? undefined : numbersOf(tensor)[0];
}

async function readString(source: TensorSource, name: string): Promise<string | undefined> {
  const codes = await readIntegers(source, name);
  return codes === undefined ? undefined : String.fromCharCode(...codes.map((code) => (code >= 32 && code < 127 ? code : 63)));
}

function numbersOf({ dtype, data }: HostTensor): number[] {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const width = DTYPE_BYTES[dtype];
  const numbers: number[] = [];
  for (let at = 0; at < data.byteLength; at += width) {
    if (dtype === 'f64') numbers.push(view.getFloat64(at, true));
    else if (dtype === 'f32') numbers.push(view.getFloat32(at, true));
    else if (dtype === 'i64') numbers.push(Number(view.getBigInt64(at, true)));
    else if (dtype === 'i32') numbers.push(view.getInt32(at, true));
    else if (dtype === 'u32') numbers.push(view.getUint32(at, true));
    else if (dtype === 'i16') numbers.push(view.getInt16(at, true));
    else if (dtype === 'u16') numbers.push(view.getUint16(at, true));
    else if (dtype === 'i8') numbers.push(view.getInt8(at));
    else if (dtype === 'u8' || dtype === 'bool') numbers.push(view.getUint8(at));
    else numbers.push(Number.NaN);
  }
  return numbers;
}
