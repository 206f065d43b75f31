// What a PyTorch file may hold, as plain data. Tensors are descriptions of bytes that lie elsewhere in the file.

import { type DType, LowbitError } from '@lowbit/core';

/** `torch.float16` and the like, stored as a value. */
export interface TorchDType {
  readonly kind: 'dtype';
  readonly dtype: DType;
}

/** Bytes of the file that one or many tensors look at. */
export interface TorchStorage {
  readonly kind: 'storage';
  /** Name of its entry in the archive, under `data/`. */
  readonly key: string;
  /** Undefined for storages that are bytes without a type; tensors over them bring their own. */
  readonly dtype: DType | undefined;
  /** Elements, or bytes where there is no dtype. */
  readonly count: number;
}

/** A view of a storage. Nothing is known of it to be true until `viewProblem` has compared it with the storage. */
export interface TorchTensor {
  readonly kind: 'tensor';
  readonly storage: TorchStorage;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** In elements, one per extent. */
  readonly strides: readonly number[];
  /** First element, counted in elements of `dtype` from the start of the storage. */
  readonly offset: number;
}

/** Keys that dictionaries of checkpoints have. */
export type PickleKey = string | number | bigint | boolean | null;

/** A dictionary of a pickle. */
export type PickleDict = ReadonlyMap<PickleKey, PickleValue>;

/** Tuples, lists and `torch.Size` are arrays; dictionaries, ordered or not, are maps. Never cyclic, of bounded depth; parts may be shared. */
export type PickleValue = PickleKey | readonly PickleValue[] | PickleDict | TorchDType | TorchStorage | TorchTensor;

export function isDict<V>(value: V): value is Extract<V, ReadonlyMap<PickleKey, unknown>> {
  return value instanceof Map;
}

export function isList<V>(value: V): value is Extract<V, readonly unknown[]> {
  return Array.isArray(value);
}

export function isDType(value: unknown): value is TorchDType {
  return kindOf(value) === 'dtype';
}

export function isStorage(value: unknown): value is TorchStorage {
  return kindOf(value) === 'storage';
}

export function isTensor(value: unknown): value is TorchTensor {
  return kindOf(value) === 'tensor';
}

function kindOf(value: unknown): unknown {
  return typeof value === 'object' && value !== null ? (value as { kind?: unknown }).kind : undefined;
}

/** What to do about a file that holds more than data. */
export const CONVERT_HINT =
  'lowbit reads tensors and plain data and runs nothing. If you trust the file, open it in Python and save its tensors as safetensors (safetensors.torch.save_file).';

/** An ERR_BAD_PICKLE that names the file and, where it is known, the byte of the pickle. */
export function badPickle(
  file: string,
  problem: string,
  facts: { readonly at?: number; readonly hint?: string; readonly details?: Readonly<Record<string, unknown>> } = {},
): LowbitError {
  const { at, hint = 'The file is damaged or incomplete: fetch or write it again.', details } = facts;
  return new LowbitError('ERR_BAD_PICKLE', `${file}: ${problem}${at === undefined ? '' : ` (byte ${at} of the pickle)`}`, {
    hint,
    details: { file, ...(at === undefined ? {} : { offset: at }), ...details },
  });
}
