// Names of dtypes in safetensors headers, and the order in which the Python library lays tensors out.

import type { DType } from '@lowbit/core';

/** Header name -> our dtype. */
export const DTYPE_OF: ReadonlyMap<string, DType> = new Map<string, DType>([
  ['F64', 'f64'],
  ['F32', 'f32'],
  ['F16', 'f16'],
  ['BF16', 'bf16'],
  ['I64', 'i64'],
  ['I32', 'i32'],
  ['I16', 'i16'],
  ['I8', 'i8'],
  ['U32', 'u32'],
  ['U16', 'u16'],
  ['U8', 'u8'],
  ['BOOL', 'bool'],
]);

/** Dtypes that the format defines and lowbit has no arithmetic for. */
export const KNOWN_UNSUPPORTED: ReadonlySet<string> = new Set([
  'U64',
  'C64',
  'F8_E4M3',
  'F8_E5M2',
  'F8_E8M0',
  'F8_E4M3FNUZ',
  'F8_E5M2FNUZ',
  'F6_E2M3',
  'F6_E3M2',
  'F4',
]);

/** Our dtype -> header name. */
export const NAME_OF: Readonly<Record<DType, string>> = Object.fromEntries([...DTYPE_OF].map(([name, dtype]) => [dtype, name])) as Record<
  DType,
  string
>;

/** Data order in a file: the library sorts by its dtype enum, last first, so wide types precede narrow ones and every tensor is aligned. */
const FILE_ORDER: readonly DType[] = ['i64', 'f64', 'f32', 'u32', 'i32', 'bf16', 'f16', 'u16', 'i16', 'i8', 'u8', 'bool'];

/** Position of a dtype in the file order; lower comes first. */
export function fileRank(dtype: DType): number {
  return FILE_ORDER.indexOf(dtype);
}
