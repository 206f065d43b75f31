// A quantized module of hqq's `qmodel.pt`, in the encoded form of its safetensors files: numbers, flags and strings as small tensors, which is what
// hqq's own encoder makes of them (readHqqLinears then reads both). Modules of hqq up to 0.1.8 keep everything but the codes in a dictionary
// `meta`, quantized scales and zeros in dictionaries of their own inside of it, and offloaded ones stacked in one tensor `zero_scale`.

import { type DType, elementCount, type HostTensor, LowbitError, quote, type Shape } from '@lowbit/core';
import { TORCH_DTYPES } from '@lowbit/layouts';
import type { NamedTensor } from './state-dict.ts';
import { isDict, isDType, isList, isTensor, type PickleDict, type PickleValue, type TorchTensor } from './values.ts';

/** Tensors of a module by their names in it. Throws ERR_TENSOR_MISMATCH. */
export function hqqModule(module: PickleDict, path: string): ReadonlyMap<string, NamedTensor> {
  const meta = module.get('meta');
  const tensors = new Map<string, NamedTensor>();
  encode(module, '', tensors);
  if (isDict(meta)) {
    encode(meta, '', tensors);
    // Of this form alone an axis may be absent: it was no setting before April 2024, always 0. Scales of another shape are then refused.
    if (!tensors.has('axis')) tensors.set('axis', encoded(0)!);
  }
  for (const name of ['meta_scale', 'meta_zero']) {
    const inner = (isDict(meta) ? meta : module).get(name);
    if (isDict(inner)) encode(inner, `${name}.`, tensors);
  }
  unstack(tensors, path);
  return tensors;
}

function encode(dict: PickleDict, prefix: string, into: Map<string, NamedTensor>): void {
  for (const [key, value] of dict) {
    const tensor = isTensor(value) ? value : encoded(value);
    if (tensor !== undefined) into.set(`${prefix}${String(key)}`, tensor);
  }
}

/** None and dictionaries have no encoded form; absent is what they mean to a reader. */
function encoded(value: PickleValue): NamedTensor | undefined {
  if (typeof value === 'boolean') return made('u8', [], Uint8Array.of(Number(value)));
  if (typeof value === 'number') {
    const isInt = Number.isInteger(value) && value === (value | 0);
    return isInt ? made('i32', [], bytesOf(Int32Array.of(value))) : made('f32', [], bytesOf(Float32Array.of(value)));
  }
  if (typeof value === 'string') return text(value);
  if (isDType(value)) return text([...TORCH_DTYPES].find(([, dtype]) => dtype === value.dtype)?.[0] ?? value.dtype);
  if (isList(value) && value.every((item) => typeof item === 'number' && Number.isSafeInteger(item))) {
    return made('i64', [value.length], bytesOf(BigInt64Array.from(value as readonly number[], BigInt)));
  }
  return undefined;
}

/** `zero_scale` [2, ...] is zeros, then scales: codes if both are quantized, numbers if none is. */
function unstack(tensors: Map<string, NamedTensor>, path: string): void {
  const stacked = tensors.get('zero_scale');
  if (stacked === undefined) return;
  const quantized = ['zero', 'scale'].filter((name) => tensors.has(`meta_${name}.scale`)).length;
  if (stacked.kind !== 'tensor' || stacked.shape[0] !== 2 || elementCount(stacked.shape) === 0 || quantized === 1) {
    throw new LowbitError('ERR_TENSOR_MISMATCH', `${quote(`${path}.zero_scale`)} is not a stack of the zeros and scales of one form`, {
      hint: 'The file is damaged or was not made by hqq.',
      details: { tensor: `${path}.zero_scale` },
    });
  }
  tensors.delete('zero_scale');
  const suffix = quantized === 2 ? '_q' : '';
  tensors.set(`zero${suffix}`, slice(stacked, 0));
  tensors.set(`scale${suffix}`, slice(stacked, 1));
}

/** `tensor[index]`. */
function slice(tensor: TorchTensor, index: number): TorchTensor {
  const offset = tensor.offset + index * tensor.strides[0]!;
  return { ...tensor, shape: tensor.shape.slice(1), strides: tensor.strides.slice(1), offset };
}

function text(value: string): NamedTensor {
  const data = new TextEncoder().encode(value);
  return made('u8', [data.byteLength], data);
}

function made(dtype: DType, shape: Shape, data: Uint8Array): HostTensor & { readonly kind: 'made' } {
  return { kind: 'made', dtype, shape, data };
}

function bytesOf(values: Int32Array | Float32Array | BigInt64Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
