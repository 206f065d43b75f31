// The settings that a stored hqq linear carries beside its numbers: what a layer needs to be saved again as it was.

import type { Affine, DType, TensorSource } from '@lowbit/core';
import { quote } from '@lowbit/core';
import { bitsOfLevels, type HqqSettings, META_DTYPES, TORCH_DTYPES } from './hqq-format.ts';
import { fail, readFlag, readNumber, readString } from './hqq-values.ts';
import { tensorName } from './names.ts';

/** What a stored linear says of itself beside its format. */
export interface StoredHqqSettings {
  readonly settings: HqqSettings;
  /** Undefined if it is not stored. */
  readonly computeDtype: DType | undefined;
}

/**
 * The settings of a linear whose format `readHqqLinear` found. Where a key is missing (files of early versions) the library's default stands: groups
 * (unless the scale is one number without a dimension), optimized, zeros rounded at 4 bits. Throws ERR_TENSOR_MISMATCH.
 */
export async function readHqqSettings(source: TensorSource, path: string, format: Affine): Promise<StoredHqqSettings> {
  const key = (name: string) => tensorName(path, name);
  const nbits = bitsOfLevels(format.levels)!;
  const number = (name: string) => readNumber(source, key(name));
  const flag = async (name: string, missing: boolean) => (await readFlag(source, key(name))) ?? missing;
  const [group, axis, dtype] = await Promise.all([number('group_size'), number('axis'), readString(source, key('compute_dtype'))]);
  const computeDtype = dtype === undefined ? undefined : TORCH_DTYPES.get(dtype);
  if (dtype !== undefined && (computeDtype === undefined || !META_DTYPES.has(computeDtype))) {
    fail(key('compute_dtype'), `is ${quote(dtype)}, not torch.float16, torch.bfloat16 or torch.float32`);
  }
  const settings: HqqSettings = {
    nbits,
    group_size: group ?? null,
    axis: axis === 0 ? 0 : 1,
    channel_wise: await flag('channel_wise', source.entries.get(key('scale'))?.shape.length !== 0),
    optimize: await flag('optimize', true),
    round_zero: await flag('round_zero', nbits === 4),
    view_as_float: await flag('view_as_float', isFloat(source.entries.get(key('W_q'))?.dtype)),
  };
  return { settings, computeDtype };
}

function isFloat(dtype: DType | undefined): boolean {
  return dtype !== undefined && META_DTYPES.has(dtype);
}
