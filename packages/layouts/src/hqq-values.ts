// Small values of the encoded hqq layout: numbers and strings are tensors, of dtypes that differ between versions.

import type { DType, HostTensor, TensorSource } from '@lowbit/core';
import { DTYPE_BYTES, elementCount, LowbitError, quote } from '@lowbit/core';
import { specText } from './names.ts';

const INTEGERS: ReadonlySet<DType> = new Set<DType>(['u8', 'i8', 'u16', 'i16', 'u32', 'i32', 'i64', 'bool']);
/** Longest stored string: `torch.bfloat16` has 14 characters. */
const MAX_STRING = 64;

/** Throws ERR_TENSOR_MISMATCH. */
export function fail(tensor: string, problem: string): never {
  throw new LowbitError('ERR_TENSOR_MISMATCH', `${quote(tensor)} ${problem}`, {
    hint: 'The checkpoint is damaged or not in the encoded hqq layout (hqq >= 0.2.0).',
    details: { tensor },
  });
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
export async function readIntegers(source: TensorSource, name: string): Promise<readonly number[] | undefined> {
  const tensor = await readSmall(source, name, MAX_STRING);
  if (tensor === undefined) return undefined;
  if (!INTEGERS.has(tensor.dtype)) fail(name, `is ${tensor.dtype}, expected integers`);
  return numbersOf(tensor);
}

/** One number: an integer of any width, or a float (`nbits` 1.58). */
export async function readNumber(source: TensorSource, name: string): Promise<number | undefined> {
  const tensor = await readSmall(source, name, 1);
  return tensor === undefined ? undefined : numbersOf(tensor)[0];
}

/** 0 or 1 of any integer dtype; undefined if it is not there. */
export async function readFlag(source: TensorSource, name: string): Promise<boolean | undefined> {
  const value = await readNumber(source, name);
  if (value !== undefined && value !== 0 && value !== 1) fail(name, `is ${value}, not 0 or 1`);
  return value === undefined ? undefined : value === 1;
}

export async function readString(source: TensorSource, name: string): Promise<string | undefined> {
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
