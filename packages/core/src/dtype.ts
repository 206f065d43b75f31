// Widths and bit-exact conversions of the dtypes. Node 20 has no Float16Array, and no runtime has bfloat16, so both are done on bits:
// widening is exact, narrowing rounds to nearest, ties to even, keeps infinities and NaN, and overflows to infinity as IEEE 754 says.

import { LowbitError } from './spec/errors.ts';
import type { DType, HostTensor, Shape } from './spec/tensor.ts';

/** Bytes of an element. */
export const DTYPE_BYTES: Readonly<Record<DType, 1 | 2 | 4 | 8>> = {
  f64: 8,
  f32: 4,
  f16: 2,
  bf16: 2,
  i64: 8,
  i32: 4,
  i16: 2,
  i8: 1,
  u32: 4,
  u16: 2,
  u8: 1,
  bool: 1,
};

/** Dtypes of floats. */
export const FLOAT_DTYPES: ReadonlySet<DType> = new Set<DType>(['f64', 'f32', 'f16', 'bf16']);

const f32 = new Float32Array(1);
const bits = new Uint32Array(f32.buffer);

/** bf16 bits of a float32 value, round half to even. */
export function toBf16(value: number): number {
  f32[0] = value;
  const u = bits[0]!;
  if ((u & 0x7fffffff) > 0x7f800000) return (u >>> 16) | 0x40; // NaN stays NaN, made quiet
  return ((u + 0x7fff + ((u >>> 16) & 1)) >>> 16) & 0xffff;
}

/** bf16 bits to a number. */
export function fromBf16(half: number): number {
  bits[0] = half << 16;
  return f32[0]!;
}

/** f16 bits of a float32 value, round half to even; magnitudes of 65520 and more become infinity. */
export function toF16(value: number): number {
  f32[0] = value;
  const u = bits[0]!;
  const sign = (u >>> 16) & 0x8000;
  const magnitude = u & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00 | ((magnitude >>> 13) & 0x3ff);
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude >= 0x38800000) return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
  if (magnitude < 0x33000000) return sign; // under half of the smallest subnormal
  const exponent = magnitude >>> 23;
  const mantissa = (magnitude & 0x7fffff) | 0x800000;
  const shift = 126 - exponent; // 14 .. 24: bits that fall off below the subnormal's unit 2^-24
  const kept = mantissa >>> shift;
  const rest = mantissa & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  return sign | (kept + (rest > half || (rest === half && (kept & 1) === 1) ? 1 : 0));
}

/** f16 bits to a number. */
export function fromF16(half: number): number {
  const exponent = (half >>> 10) & 0x1f;
  const mantissa = half & 0x3ff;
  const sign = half & 0x8000 ? -1 : 1;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  if (exponent === 31) return mantissa === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (1024 + mantissa) * 2 ** (exponent - 25);
}

let f16Values: Float32Array | undefined;
/** All 65,536 f16 values by bits: the fast way to widen arrays (256 KiB, made on first use). Internal. */
export function f16Table(): Float32Array {
  f16Values ??= Float32Array.from({ length: 65536 }, (_, half) => fromF16(half));
  return f16Values;
}

/** Rounds a number to the nearest value of a float dtype. */
export function roundTo(dtype: 'f64' | 'f32' | 'f16' | 'bf16', value: number): number {
  if (dtype === 'f16') return fromF16(toF16(Math.fround(value)));
  if (dtype === 'bf16') return fromBf16(toBf16(Math.fround(value)));
  return dtype === 'f32' ? Math.fround(value) : value;
}

/** `roundTo` for loops: a function of one float32 number. Internal. */
export function rounder(dtype: 'f32' | 'f16' | 'bf16'): (value: number) => number {
  if (dtype === 'f32') return Math.fround;
  if (dtype === 'bf16') return (value) => fromBf16(toBf16(value));
  const values = f16Table();
  return (value) => values[toF16(value)]!;
}

export type AnyTypedArray =
  | Float64Array
  | Float32Array
  | BigInt64Array
  | Int32Array
  | Int16Array
  | Int8Array
  | Uint32Array
  | Uint16Array
  | Uint8Array;

const ARRAYS = {
  f64: Float64Array,
  f32: Float32Array,
  f16: Uint16Array,
  bf16: Uint16Array,
  i64: BigInt64Array,
  i32: Int32Array,
  i16: Int16Array,
  i8: Int8Array,
  u32: Uint32Array,
  u16: Uint16Array,
  u8: Uint8Array,
  bool: Uint8Array,
} as const;

/** The elements as a typed array (f16 and bf16 as bits): a view where the bytes are aligned, else a copy. */
export function elements<D extends DType>(tensor: { readonly dtype: D; readonly data: Uint8Array }): InstanceType<(typeof ARRAYS)[D]> {
  const { data, dtype } = tensor;
  const width = DTYPE_BYTES[dtype];
  if (width === undefined) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `there is no dtype ${JSON.stringify(dtype)}`, {
      hint: `The dtypes are ${Object.keys(DTYPE_BYTES).join(', ')}.`,
    });
  }
  const aligned = data.byteOffset % width === 0 ? data : new Uint8Array(data); // not slice(): that of a Buffer is a view
  return new ARRAYS[dtype](aligned.buffer as ArrayBuffer, aligned.byteOffset, aligned.byteLength / width) as InstanceType<
    (typeof ARRAYS)[D]
  >;
}

/** Widens (or narrows) `count` stored elements to float32. i64 beyond 2^53 loses precision; bool gives 0 and 1. */
export function readFloat32(dtype: DType, data: Uint8Array, into: Float32Array, at = 0): void {
  const source = elements({ dtype, data });
  const count = source.length;
  if (dtype === 'f16') {
    const table = f16Table();
    for (let i = 0; i < count; i++) into[at + i] = table[source[i] as number]!;
  } else if (dtype === 'bf16') {
    const words = new Uint32Array(into.buffer, into.byteOffset, into.length);
    for (let i = 0; i < count; i++) words[at + i] = (source[i] as number) << 16;
  } else if (dtype === 'i64') {
    for (let i = 0; i < count; i++) into[at + i] = Number(source[i]);
  } else {
    into.set(source as Float32Array, at);
  }
}

/** Float32 values in the bytes of a float dtype. */
export function writeFloat32(dtype: DType, values: Float32Array): Uint8Array {
  if (dtype === 'f32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength).slice();
  if (dtype === 'f64') return new Uint8Array(Float64Array.from(values).buffer);
  if (dtype !== 'f16' && dtype !== 'bf16') {
    throw new LowbitError('ERR_BAD_ARGUMENT', `cannot store floats as ${dtype}`, { hint: 'Use f64, f32, f16 or bf16.' });
  }
  const out = new Uint16Array(values.length);
  const narrow = dtype === 'f16' ? toF16 : toBf16;
  for (let i = 0; i < values.length; i++) out[i] = narrow(values[i]!);
  return new Uint8Array(out.buffer);
}

/** Index of the first element that is NaN or infinite, -1 if there is none. Looks at bits, so nothing is converted; integers are finite. */
export function firstNonFinite(tensor: { readonly dtype: DType; readonly data: Uint8Array }): number {
  const { dtype, data } = tensor;
  if (dtype === 'f64') return elements({ dtype, data }).findIndex((value) => !Number.isFinite(value));
  if (dtype !== 'f32' && dtype !== 'f16' && dtype !== 'bf16') return -1;
  const words: Uint32Array | Uint16Array = dtype === 'f32' ? elements({ dtype: 'u32', data }) : elements({ dtype: 'u16', data });
  const exponent = dtype === 'f32' ? 0x7f800000 : dtype === 'f16' ? 0x7c00 : 0x7f80;
  for (let i = 0; i < words.length; i++) if ((words[i]! & exponent) === exponent) return i;
  return -1;
}

/** The elements as float32: a view of an aligned f32 tensor, otherwise a new array. */
export function toFloat32(tensor: HostTensor): Float32Array {
  if (tensor.dtype === 'f32') return elements({ dtype: 'f32', data: tensor.data });
  const out = new Float32Array(elementCount(tensor.shape));
  readFloat32(tensor.dtype, tensor.data, out);
  return out;
}

/** A float tensor in another float dtype; the same tensor if it has that dtype already. */
export function castFloat(tensor: HostTensor, dtype: DType): HostTensor {
  return tensor.dtype === dtype ? tensor : { dtype, shape: tensor.shape, data: writeFloat32(dtype, toFloat32(tensor)) };
}

/** Number of elements of a shape. Throws ERR_BAD_ARGUMENT for extents that are no whole numbers, ERR_LIMIT if the product is not a safe integer. */
export function elementCount(shape: Shape): number {
  let count = 1;
  for (const extent of shape) {
    if (!Number.isSafeInteger(extent) || extent < 0) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `[${shape.join(', ')}] is not a shape`, {
        hint: 'Extents are whole numbers from 0.',
        details: { shape },
      });
    }
    count *= extent;
  }
  if (Number.isSafeInteger(count)) return count;
  throw new LowbitError('ERR_LIMIT', `shape [${shape.join(', ')}] has no usable element count`, { details: { shape } });
}

/** Bytes of a tensor. */
export function byteLength(spec: { readonly dtype: DType; readonly shape: Shape }): number {
  return elementCount(spec.shape) * DTYPE_BYTES[spec.dtype];
}
