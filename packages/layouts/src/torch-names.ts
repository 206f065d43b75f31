// What torch calls dtypes: the names in config files, JSON texts and pickles.

import type { DType } from '@lowbit/core';

const NAMES: Readonly<Record<DType, string>> = {
  f64: 'float64',
  f32: 'float32',
  f16: 'float16',
  bf16: 'bfloat16',
  i64: 'int64',
  i32: 'int32',
  i16: 'int16',
  i8: 'int8',
  u32: 'uint32',
  u16: 'uint16',
  u8: 'uint8',
  bool: 'bool',
};

/** torch's name -> dtype, of these dtypes, in their order. `prefix`: what the names begin with, such as `torch.`. */
export function torchNames(dtypes: readonly DType[], prefix = ''): ReadonlyMap<string, DType> {
  return new Map(dtypes.map((dtype) => [`${prefix}${NAMES[dtype]}`, dtype]));
}
