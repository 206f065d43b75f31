// What comes into routines, checked.

import { elements, type HostTensor, hostTensor, LowbitError } from '@lowbit/core';
import type { StoredFloat } from '../layout.ts';

const BYTES: Readonly<Record<StoredFloat, number>> = { f32: 4, f16: 2, bf16: 2 };
/** Kernels count weights in 32 bits, and their errors take two words each. */
const MOST = 2 ** 28;

export function bad(what: string, hint?: string): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', `kernels-webgpu: ${what}`, { hint });
}

export interface Weights {
  readonly data: Uint8Array;
  readonly dtype: StoredFloat;
}

/** Throws ERR_BAD_ARGUMENT unless there are exactly `count` weights, in f32, f16 or bf16. */
function weightsOf(weights: HostTensor | undefined, count: number, shape: string): Weights {
  const dtype = weights?.dtype as StoredFloat;
  const fits = Number.isInteger(count) && count >= 1 && count <= MOST && weights?.data.byteLength === count * (BYTES[dtype] ?? Number.NaN);
  if (!fits) throw bad(`weights cannot be ${weights?.dtype} [${weights?.shape.join(', ')}]`, `Pass ${shape} in f32, f16 or bf16.`);
  return { data: weights.data, dtype };
}

/** Weights [groups, size]. Throws ERR_BAD_ARGUMENT. */
export function tileOf(weights: HostTensor | undefined): Weights & { readonly groups: number; readonly size: number } {
  const [groups = 0, size = 0, ...more] = weights?.shape ?? [];
  const count = more.length > 0 ? Number.NaN : groups * size;
  return { ...weightsOf(weights, count, '[groups, size]'), groups, size };
}

/** Weights [n]. Throws ERR_BAD_ARGUMENT. */
export function runOf(weights: HostTensor | undefined): Weights & { readonly count: number } {
  const [count = 0, ...more] = weights?.shape ?? [];
  return { ...weightsOf(weights, more.length > 0 ? Number.NaN : count, '[n]'), count };
}

/** Bytes of so many f32. Throws ERR_BAD_ARGUMENT. */
export function floatsOf(tensor: HostTensor | undefined, count: number): Uint8Array {
  if (tensor?.dtype === 'f32' && tensor.data.byteLength === 4 * count) return tensor.data;
  throw bad(`${tensor?.dtype} [${tensor?.shape.join(', ')}] where ${count} of f32 belong`);
}

/** So many u8, as words. Throws ERR_BAD_ARGUMENT. */
export function bytesAsWords(tensor: HostTensor | undefined, count: number): Uint8Array {
  if (tensor?.dtype !== 'u8' || tensor.data.byteLength !== count) {
    throw bad(`${tensor?.dtype} [${tensor?.shape.join(', ')}] where ${count} of u8 belong`);
  }
  return new Uint8Array(Uint32Array.from(tensor.data).buffer);
}

/** Words as bytes. */
export function wordsAsBytes(data: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(new Uint32Array(data.buffer, data.byteOffset, data.byteLength / 4));
}

export function doubles(data: Uint8Array<ArrayBuffer>): Float64Array {
  return elements({ dtype: 'f64', data });
}

export function f32(data: Uint8Array<ArrayBuffer>): HostTensor {
  return { dtype: 'f32', shape: [data.byteLength / 4], data };
}

export function f64(shape: readonly number[], values: Float64Array): HostTensor {
  return hostTensor('f64', shape, values);
}

/** The bits of a number as f32. */
export function bitsOf(value: number): number {
  return new Uint32Array(Float32Array.of(value).buffer)[0]!;
}

/** The largest f32 that is not above `value`, which is positive and finite. */
export function floorF32(value: number): number {
  const near = Math.fround(value);
  if (near <= value) return near;
  const bits = new Uint32Array([bitsOf(near) - 1]);
  return new Float32Array(bits.buffer)[0]!;
}
