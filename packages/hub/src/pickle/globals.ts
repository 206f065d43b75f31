// The only names that a pickle may mention, and what "calling" one means here: a function from plain data to plain data, written below.

import type { DType } from '@lowbit/core';
import {
  isDict,
  isDType,
  isList,
  isStorage,
  isTensor,
  type PickleKey,
  type PickleValue,
  type TorchDType,
  type TorchStorage,
  type TorchTensor,
} from './values.ts';

/** A name of the allow-list on the stack. Never part of the result. */
export class Global {
  readonly name: string;
  readonly make: ((args: readonly StackValue[]) => StackValue) | undefined;
  readonly storage: { readonly dtype: DType | undefined } | undefined;

  constructor(name: string, role: { readonly make?: NonNullable<Global['make']>; readonly storage?: NonNullable<Global['storage']> }) {
    this.name = name;
    this.make = role.make;
    this.storage = role.storage;
  }
}

/** What the machine works on: data that may still change, and names. */
export type StackValue = PickleValue | Global | readonly StackValue[] | ReadonlyMap<PickleKey, StackValue>;

/** Thrown by `make` where arguments do not fit; the machine adds file, name and offset. */
export class BadArguments extends Error {}

/** Most dimensions of a tensor, as in torch. */
const MAX_RANK = 64;

const DTYPES: Readonly<Record<string, DType>> = {
  float64: 'f64',
  double: 'f64',
  float32: 'f32',
  float: 'f32',
  float16: 'f16',
  half: 'f16',
  bfloat16: 'bf16',
  int64: 'i64',
  long: 'i64',
  int32: 'i32',
  int: 'i32',
  int16: 'i16',
  short: 'i16',
  int8: 'i8',
  uint32: 'u32',
  uint16: 'u16',
  uint8: 'u8',
  bool: 'bool',
};

const STORAGES: Readonly<Record<string, DType>> = {
  DoubleStorage: 'f64',
  FloatStorage: 'f32',
  HalfStorage: 'f16',
  BFloat16Storage: 'bf16',
  LongStorage: 'i64',
  IntStorage: 'i32',
  ShortStorage: 'i16',
  CharStorage: 'i8',
  ByteStorage: 'u8',
  BoolStorage: 'bool',
};

const DTYPE_GLOBALS: ReadonlyMap<string, TorchDType> = new Map(
  Object.entries(DTYPES).map(([name, dtype]) => [`torch.${name}`, { kind: 'dtype', dtype }]),
);

const CALLABLES: ReadonlyMap<string, Global> = new Map(
  [
    new Global('collections.OrderedDict', { make: orderedDict }),
    new Global('torch.Size', { make: size }),
    new Global('torch.device', { make: device }),
    new Global('torch._utils._rebuild_tensor_v2', { make: tensorV2 }),
    new Global('torch._utils._rebuild_tensor_v3', { make: tensorV3 }),
    new Global('torch._utils._rebuild_parameter', { make: parameter }),
    new Global('torch._utils._rebuild_parameter_with_state', { make: parameter }),
    ...Object.entries(STORAGES).map(([name, dtype]) => new Global(`torch.${name}`, { storage: { dtype } })),
    ...['torch.UntypedStorage', 'torch.storage.UntypedStorage', 'torch.storage.TypedStorage'].map(
      (name) => new Global(name, { storage: { dtype: undefined } }),
    ),
  ].map((global) => [global.name, global]),
);

/** What a name stands for; undefined if it is not on the list. */
export function lookUp(module: string, name: string): Global | TorchDType | undefined {
  const full = `${module}.${name}`;
  return DTYPE_GLOBALS.get(full) ?? CALLABLES.get(full);
}

/** A persistent id, `('storage', type, key, location, count)`. Throws BadArguments. */
export function storageOf(id: StackValue): TorchStorage {
  if (!isList(id) || id.length !== 5 || id[0] !== 'storage') throw new BadArguments('a persistent id that is no storage');
  const [, type, key, , count] = id;
  if (!(type instanceof Global) || type.storage === undefined) throw new BadArguments('a storage of an unknown type');
  if (typeof key !== 'string' || !/^[\w.-]{1,64}$/.test(key)) throw new BadArguments('a storage with a bad key');
  if (!isCount(count)) throw new BadArguments('a storage with a bad size');
  return { kind: 'storage', key, dtype: type.storage.dtype, count };
}

/** True for what a dictionary may have as a key. */
export function isKey(value: StackValue): value is PickleKey {
  return value === null || typeof value !== 'object';
}

/** True for a dictionary that carries attributes of its own, which are read and dropped (`_metadata` of a state dict). */
export function takesState(value: StackValue, state: StackValue): boolean {
  return isDict(value) && (isDict(state) || state === null);
}

/** Picklers of protocol 2 and later make it empty and fill it by SETITEMS. */
function orderedDict(args: readonly StackValue[]): StackValue {
  if (args.length > 0) throw new BadArguments('expected no arguments');
  return new Map<PickleKey, StackValue>();
}

function size(args: readonly StackValue[]): PickleValue {
  if (args.length > 1) throw new BadArguments('expected one tuple');
  return args.length === 0 ? [] : counts(args[0]);
}

function device(args: readonly StackValue[]): PickleValue {
  const [type, index] = args;
  if (args.length === 1 && typeof type === 'string') return type;
  if (args.length === 2 && typeof type === 'string' && isCount(index)) return `${type}:${index}`;
  throw new BadArguments('expected a name and perhaps a number');
}

/** (storage, offset, size, strides, requires_grad, backward_hooks, metadata?) */
function tensorV2(args: readonly StackValue[]): TorchTensor {
  if (args.length < 6 || args.length > 7) throw new BadArguments('expected six or seven arguments');
  const [storage] = args;
  if (!isStorage(storage)) throw new BadArguments('the first argument is no storage');
  if (storage.dtype === undefined) throw new BadArguments('the storage has no type');
  return tensor(storage, storage.dtype, args);
}

/** (storage, offset, size, strides, requires_grad, backward_hooks, dtype, metadata?): dtypes that have no storage class, such as uint16. */
function tensorV3(args: readonly StackValue[]): TorchTensor {
  if (args.length < 7 || args.length > 8) throw new BadArguments('expected seven or eight arguments');
  const [storage, , , , , , dtype] = args;
  if (!isStorage(storage)) throw new BadArguments('the first argument is no storage');
  if (!isDType(dtype)) throw new BadArguments('the seventh argument is no dtype');
  return tensor(storage, dtype.dtype, args);
}

function tensor(storage: TorchStorage, dtype: DType, [, offset, shape, strides, , hooks]: readonly StackValue[]): TorchTensor {
  if (!isCount(offset)) throw new BadArguments('a bad offset');
  // Hooks are functions of the saving program; torch drops them with a warning, so a file that has some was made by hand.
  if (!(hooks === null || (isDict(hooks) && hooks.size === 0))) throw new BadArguments('hooks');
  const extents = counts(shape);
  const steps = counts(strides);
  if (extents.length !== steps.length) throw new BadArguments(`${extents.length} extents and ${steps.length} strides`);
  return { kind: 'tensor', storage, dtype, shape: extents, strides: steps, offset };
}

/** (tensor, requires_grad, backward_hooks, state?): only the tensor matters. */
function parameter(args: readonly StackValue[]): PickleValue {
  const [data] = args;
  if (args.length < 3 || args.length > 4 || !isTensor(data)) throw new BadArguments('the first argument is no tensor');
  return data;
}

function counts(value: StackValue | undefined): number[] {
  if (!isList(value) || value.length > MAX_RANK || !value.every(isCount)) throw new BadArguments('a bad shape');
  return value.map(Number);
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}
