// Options of the quantizers, their defaults and checks, and what they are called in config.json.

import { checkOptionNames, type JsonObject, type NonFinite } from '@lowbit/core';
import { refusal } from './refuse.ts';

/** What 4-bit layers compute in when the checkpoint is run. Says nothing about how weights are stored. */
export type ComputeDtype = 'f32' | 'f16' | 'bf16';

/** What the quantizers share. */
export interface NonFiniteOptions {
  /**
   * Quantize weights that are NaN or infinite as bitsandbytes does on the CPU, and leave what they spoil out of the reported error (`nonFinite` counts it):
   * a block (4 bits) or a row (8 bits), with double quantization the whole matrix. Default false: ERR_NON_FINITE.
   */
  readonly allowNonFinite?: boolean;
}

/** Of `nf4`. */
export interface Nf4Options extends NonFiniteOptions {
  /** Weights that share a magnitude: 32, 64 (default), 128, ..., 4096. Python's transformers reads any, but makes 64 alone. */
  readonly blockSize?: number;
  /** Keep magnitudes as 8-bit codes: 4.13 bits a weight instead of 4.5 at 64. Default false. */
  readonly doubleQuant?: boolean;
  /**
   * What is stored as a block's magnitude. `absmax` (default): the largest of its weights, as in Python. `search`: the scale with the least squared error, each
   * weight counted by the importance of its channel where that is given; the same files, which Python reads. Slower, and not with `allowNonFinite`.
   */
  readonly scale?: 'absmax' | 'search';
  /** `bnb_4bit_compute_dtype` of the checkpoint. Default f32, as in transformers; bf16 is what most files say. */
  readonly computeDtype?: ComputeDtype;
}

/** Of `fp4`. */
export interface Fp4Options extends Nf4Options {
  /**
   * Bounds between neighbouring values. `midpoints` (default): those of bitsandbytes 0.50 on the CPU. `cuda`: the truncated decimals of its CUDA kernels,
   * which also multiply by a reciprocal in a short last block.
   */
  readonly thresholds?: 'midpoints' | 'cuda';
}

/** Of `int8`. */
export interface Int8Options extends NonFiniteOptions {
  /** Magnitude from which an activation's column is computed in floating point; 0: none. Default 6. */
  readonly threshold?: number;
}

export interface FourBitSettings {
  readonly type: 'nf4' | 'fp4';
  readonly blockSize: number;
  readonly doubleQuant: boolean;
  readonly scale: 'absmax' | 'search';
  readonly computeDtype: ComputeDtype;
  readonly thresholds: 'midpoints' | 'cuda';
  readonly nonFinite: NonFinite;
}

export interface Int8Settings {
  readonly threshold: number;
  readonly nonFinite: NonFinite;
}

const BLOCK_SIZES = [32, 64, 128, 256, 512, 1024, 2048, 4096];

/** Names of the dtypes in config.json. */
export const TORCH_NAMES: Readonly<Record<ComputeDtype, string>> = { f32: 'float32', f16: 'float16', bf16: 'bfloat16' };

/** What the bytes of packed codes can be stored as, in torch's words. */
export const STORAGES = ['uint8', 'int8', 'float16', 'bfloat16', 'float32', 'float64'] as const;
export type QuantStorage = (typeof STORAGES)[number];

const NF4_OPTIONS: readonly (keyof Nf4Options)[] = ['blockSize', 'doubleQuant', 'scale', 'computeDtype', 'allowNonFinite'];
const FP4_OPTIONS: readonly (keyof Fp4Options)[] = [...NF4_OPTIONS, 'thresholds'];

/** Defaults filled in and checked. Throws ERR_BAD_ARGUMENT. */
export function nf4Settings(options: Nf4Options): FourBitSettings {
  checkOptionNames('nf4', options, NF4_OPTIONS);
  return { type: 'nf4', ...common('nf4', options), thresholds: 'midpoints' };
}

/** Defaults filled in and checked. Throws ERR_BAD_ARGUMENT. */
export function fp4Settings(options: Fp4Options): FourBitSettings {
  checkOptionNames('fp4', options, FP4_OPTIONS);
  const { thresholds = 'midpoints' } = options;
  if (thresholds !== 'midpoints' && thresholds !== 'cuda') throw badOption('fp4', 'thresholds', thresholds, "Use 'midpoints' or 'cuda'.");
  const settings = common('fp4', options);
  if (thresholds === 'cuda' && settings.nonFinite === 'keep') {
    throw refusal('fp4', 'allowNonFinite follows the CPU, thresholds follow CUDA', 'Use one of the two.', { option: 'allowNonFinite' });
  }
  return { type: 'fp4', ...settings, thresholds };
}

/** Defaults filled in and checked. Throws ERR_BAD_ARGUMENT. */
export function int8Settings(options: Int8Options): Int8Settings {
  checkOptionNames('int8', options, ['threshold', 'allowNonFinite']);
  const { threshold = 6 } = options;
  if (!(typeof threshold === 'number' && threshold >= 0 && threshold < Number.POSITIVE_INFINITY)) {
    throw badOption('int8', 'threshold', threshold, 'Use a number from 0, which turns outliers off; 6 is the usual one.');
  }
  return { threshold, nonFinite: nonFiniteOf('int8', options) };
}

function nonFiniteOf(call: string, { allowNonFinite = false }: NonFiniteOptions): NonFinite {
  if (typeof allowNonFinite !== 'boolean') throw badOption(call, 'allowNonFinite', allowNonFinite, 'Use true or false.');
  return allowNonFinite ? 'keep' : 'refuse';
}

function common(call: string, options: Nf4Options): Omit<FourBitSettings, 'type' | 'thresholds'> {
  const { blockSize = 64, doubleQuant = false, scale = 'absmax', computeDtype = 'f32' } = options;
  if (!BLOCK_SIZES.includes(blockSize)) throw badOption(call, 'blockSize', blockSize, `Use one of ${BLOCK_SIZES.join(', ')}.`);
  if (typeof doubleQuant !== 'boolean') throw badOption(call, 'doubleQuant', doubleQuant, 'Use true or false.');
  if (!Object.hasOwn(TORCH_NAMES, computeDtype)) throw badOption(call, 'computeDtype', computeDtype, 'Use f32, f16 or bf16.');
  if (scale !== 'absmax' && scale !== 'search') throw badOption(call, 'scale', scale, "Use 'absmax' or 'search'.");
  const nonFinite = nonFiniteOf(call, options);
  if (scale === 'search' && nonFinite === 'keep') {
    throw refusal(call, 'a scale is searched among numbers, and allowNonFinite keeps what are none', 'Use one of the two.', {
      option: 'scale',
    });
  }
  return { blockSize, doubleQuant, scale, computeDtype, nonFinite };
}

function badOption(call: string, name: string, value: unknown, hint: string) {
  return refusal(call, `${name} cannot be ${typeof value === 'string' ? JSON.stringify(value) : String(value)}`, hint, {
    option: name,
    value,
  });
}

/** Fields of `quantization_config` as transformers writes them. */
export const CONFIG_DEFAULTS = {
  bnb_4bit_compute_dtype: 'float32',
  bnb_4bit_quant_storage: 'uint8',
  bnb_4bit_quant_type: 'fp4',
  bnb_4bit_use_double_quant: false,
  llm_int8_enable_fp32_cpu_offload: false,
  llm_int8_has_fp16_weight: false,
  llm_int8_skip_modules: null,
  llm_int8_threshold: 6,
  load_in_4bit: false,
  load_in_8bit: false,
  quant_method: 'bitsandbytes',
} as const satisfies JsonObject;

/** The config record of a 4-bit quantizer. */
export function fourBitConfig(s: FourBitSettings): JsonObject {
  return {
    ...CONFIG_DEFAULTS,
    bnb_4bit_compute_dtype: TORCH_NAMES[s.computeDtype],
    bnb_4bit_quant_type: s.type,
    bnb_4bit_use_double_quant: s.doubleQuant,
    load_in_4bit: true,
  };
}

/** The config record of LLM.int8. */
export function int8Config(threshold: number): JsonObject {
  return { ...CONFIG_DEFAULTS, llm_int8_threshold: threshold, load_in_8bit: true };
}
