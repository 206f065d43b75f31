// What the `bitsandbytes` layout takes from a quantizer's config record, whose fields are those of transformers' BitsAndBytesConfig.

import { type DType, type Json, type LinearSettings, LowbitError } from '@lowbit/core';
import { STORAGE_DTYPES, WEIGHT_DTYPES } from '@lowbit/layouts';

export interface BitsAndBytesSettings {
  /** Name of a torch dtype. */
  readonly computeDtype: string;
  /** What packed codes are seen as, and its name. */
  readonly storage: DType;
  readonly storageName: string;
  readonly threshold: number;
  readonly fp32CpuOffload: boolean;
  /** Modules to keep, as the user named them. */
  readonly skipModules: readonly string[] | undefined;
}

/** Missing fields have transformers' defaults. Throws ERR_BAD_ARGUMENT, naming the field, for a value that transformers would refuse. */
export function bitsAndBytesSettings({ method, config }: LinearSettings): BitsAndBytesSettings {
  function field<T extends Json>(name: string, fallback: T, valid: (value: Json) => value is T, wanted: string): T {
    const value = config[name] ?? fallback;
    if (valid(value)) return value;
    throw new LowbitError(
      'ERR_BAD_ARGUMENT',
      `the bitsandbytes layout cannot use ${name} = ${JSON.stringify(value)} of the quantizer's config`,
      { hint: `It must be ${wanted}.`, details: { method, field: name, value } },
    );
  }
  const oneOf = (names: ReadonlyMap<string, DType>) =>
    [(value: Json) => typeof value === 'string' && names.has(value), [...names.keys()].join(', ')] as const;
  const [isCompute, computeNames] = oneOf(WEIGHT_DTYPES);
  const [isStorage, storageNames] = oneOf(STORAGE_DTYPES);
  const isFlag = (value: Json): value is boolean => typeof value === 'boolean';
  field('llm_int8_has_fp16_weight', false, (value): value is false => value === false, 'false: weights are stored as codes');
  const storageName = field('bnb_4bit_quant_storage', 'uint8', (value): value is string => isStorage(value), `one of ${storageNames}`);
  const skip = config.llm_int8_skip_modules ?? null;
  return {
    computeDtype: field('bnb_4bit_compute_dtype', 'float32', (value): value is string => isCompute(value), `one of ${computeNames}`),
    storage: STORAGE_DTYPES.get(storageName)!,
    storageName,
    threshold: field(
      'llm_int8_threshold',
      6,
      (value): value is number => typeof value === 'number' && value >= 0 && value < Infinity,
      'a number of at least 0',
    ),
    fp32CpuOffload: field('llm_int8_enable_fp32_cpu_offload', false, isFlag, 'true or false'),
    skipModules:
      skip === null ? undefined : field('llm_int8_skip_modules', skip as readonly string[], isNames, 'a list of module names, or null'),
  };
}

function isNames(value: Json): value is readonly string[] {
  return Array.isArray(value) && value.every((name) => typeof name === 'string');
}
