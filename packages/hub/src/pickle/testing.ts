// Helpers of the tests: a small pickler and a zip writer, so that files can be right, wrong, or wrong on purpose. Not the code under test.

import { DTYPE_BYTES, type DType, type HostTensor } from '@lowbit/core';
import { OP } from './opcodes.ts';

const STORAGE: Readonly<Partial<Record<DType, string>>> = {
  f64: 'DoubleStorage',
  f32: 'FloatStorage',
  f16: 'HalfStorage',
  bf16: 'BFloat16Storage',
  i64: 'LongStorage',
  i32: 'IntStorage',
  i16: 'ShortStorage',
  i8: 'CharStorage',
  u8: 'ByteStorage',
  bool: 'BoolStorage',
};

/** Something that writes itself; everything else is written by what it is. */
export interface Raw {
  readonly raw: readonly number[];
}

export type Picklable = null | boolean | number | string | readonly Picklable[] | ReadonlyMap<Picklable, Picklable> | Raw;

/** Bytes without PROTO and STOP. Arrays are tuples. */
export function body(value: Picklable): number[] {
  if (value === null) return [OP.NONE];
  if (typeof value === 'boolean') return [value ? OP.NEWTRUE : OP.NEWFALSE];
  if (typeof value === 'number') return Number.isInteger(value) && Math.abs(value) < 2 ** 31 ? [OP.BININT, ...le(value, 4)] : float(value);
  if (typeof value === 'string') {
    const bytes = new TextEncoder().encode(value);
    return [OP.BINUNICODE, ...le(bytes.byteLength, 4), ...bytes];
  }
  if ('raw' in value) return [...value.raw];
  if (value instanceof Map) return [OP.EMPTY_DICT, OP.MARK, ...[...value].flatMap(([k, v]) => [...body(k), ...body(v)]), OP.SETITEMS];
  return [OP.MARK, ...[...(value as readonly Picklable[])].flatMap(body), OP.TUPLE];
}

/** A whole pickle of protocol 2. */
export function pickle(value: Picklable): Uint8Array {
  return program(...body(value), OP.STOP);
}

/** PROTO 2 and these bytes. */
export function program(...bytes: readonly number[]): Uint8Array {
  return Uint8Array.from([OP.PROTO, 2, ...bytes]);
}

export function ascii(text: string): number[] {
  return [...text].map((character) => character.charCodeAt(0));
}

/** `GLOBAL module name`. */
export function named(full: string): Raw {
  const dot = full.lastIndexOf('.');
  return { raw: [OP.GLOBAL, ...ascii(`${full.slice(0, dot)}\n${full.slice(dot + 1)}\n`)] };
}

/** `full(*args)`. */
export function call(full: string, args: readonly Picklable[]): Raw {
  return { raw: [...named(full).raw, ...body(args), OP.REDUCE] };
}

export function storage(dtype: DType, key: string, count: number): Raw {
  return { raw: [...body(['storage', named(`torch.${STORAGE[dtype]}`), key, 'cpu', count]), OP.BINPERSID] };
}

export interface View {
  readonly dtype: DType;
  readonly key: string;
  /** Elements of the storage. */
  readonly count: number;
  readonly shape: readonly number[];
  readonly strides?: readonly number[];
  readonly offset?: number;
}

export function tensor({ dtype, key, count, shape, strides = rowMajor(shape), offset = 0 }: View): Raw {
  const hooks = call('collections.OrderedDict', []);
  return call('torch._utils._rebuild_tensor_v2', [storage(dtype, key, count), offset, shape, strides, false, hooks]);
}

function rowMajor(shape: readonly number[]): number[] {
  return shape.map((_, i) => shape.slice(i + 1).reduce((product, extent) => product * extent, 1));
}

export interface ZipPart {
  readonly name: string;
  readonly data: Uint8Array;
  /** What the directory says, where it lies. */
  readonly claim?: {
    readonly size?: number;
    readonly packed?: number;
    readonly method?: number;
    readonly header?: number;
    readonly flags?: number;
  };
}

/** A zip archive. */
export function zip(parts: readonly ZipPart[]): Uint8Array {
  const local: number[][] = [];
  const central: number[][] = [];
  let at = 0;
  for (const { name, data, claim = {} } of parts) {
    const method = claim.method ?? 0;
    const sizes = [...le(0, 4), ...le(claim.packed ?? data.byteLength, 4), ...le(claim.size ?? data.byteLength, 4)];
    const common = [...le(claim.flags ?? 0, 2), ...le(method, 2), ...le(0, 4), ...sizes, ...le(name.length, 2), ...le(0, 2)];
    const header = [0x50, 0x4b, 3, 4, ...le(20, 2), ...common, ...ascii(name)];
    local.push([...header, ...data]);
    central.push([0x50, 0x4b, 1, 2, ...le(20, 2), ...le(20, 2), ...common, ...le(0, 10), ...le(claim.header ?? at, 4), ...ascii(name)]);
    at += header.length + data.byteLength;
  }
  const directory = central.flat();
  const counts = [...le(0, 4), ...le(parts.length, 2), ...le(parts.length, 2)];
  return Uint8Array.from([
    ...local.flat(),
    ...directory,
    0x50,
    0x4b,
    5,
    6,
    ...counts,
    ...le(directory.length, 4),
    ...le(at, 4),
    ...le(0, 2),
  ]);
}

/** A file of torch.save. `tensors` become storages 0, 1, ... and are given to `build` as views of them. */
export function torchFile(content: Picklable, storages: Readonly<Record<string, Uint8Array>> = {}): Uint8Array {
  return zip([
    { name: 'archive/data.pkl', data: pickle(content) },
    { name: 'archive/byteorder', data: Uint8Array.from(ascii('little')) },
    ...Object.entries(storages).map(([key, data]) => ({ name: `archive/data/${key}`, data })),
  ]);
}

/** Collects tensors as storages of a file. */
export function storages(): { readonly add: (value: HostTensor) => Raw; readonly data: Record<string, Uint8Array> } {
  const data: Record<string, Uint8Array> = {};
  return {
    data,
    add({ dtype, shape, data: bytes }) {
      const key = String(Object.keys(data).length);
      data[key] = bytes;
      return tensor({ dtype, key, count: bytes.byteLength / DTYPE_BYTES[dtype], shape });
    },
  };
}

export function le(value: number, bytes: number): number[] {
  let rest = BigInt(value);
  return Array.from({ length: bytes }, () => {
    const byte = Number(rest & 255n);
    rest >>= 8n;
    return byte;
  });
}

function float(value: number): number[] {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setFloat64(0, value, false);
  return [OP.BINFLOAT, ...bytes];
}
