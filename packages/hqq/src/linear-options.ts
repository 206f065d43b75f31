// What HqqLinear is made with: options, configurations and state dicts, checked.

import {
  type CallOptions,
  castBias,
  checkBias,
  checkComputeDtype,
  checkOptionNames,
  checkRuntime,
  type HostTensor,
  type Importance,
  isQuantizer,
  type LinearDType,
  type LinearRuntime,
  LowbitError,
  type Matrix,
  memoryReader,
  type QuantizeOptions,
  type Quantizer,
  type Runtime,
} from '@lowbit/core';
import type { HqqBackend } from './backends.ts';
import type { LinearConfig } from './config.ts';
import { type Configured, quantizerOf } from './config-keys.ts';
import { checkFlag } from './solver-options.ts';
import type { StateDict } from './state-dict.ts';

/** A floating-point linear layer: weight [out, in], bias [out]. */
export interface FloatLinear {
  weight?: HostTensor | undefined;
  bias?: HostTensor | null | undefined;
}

/** What a layer needs of a runtime. */
export type HqqRuntime = LinearRuntime & Pick<Runtime, 'backends' | 'routine'>;

export interface HqqLinearOptions extends CallOptions {
  readonly runtime: HqqRuntime;
  /** Dtype of scales, zeros, bias, products and dequantized numbers. Default f16, as in Python. */
  readonly computeDtype?: LinearDType;
  /** Take weight and bias out of the record that was passed once they are quantized, so that their memory can go. Default false (Python: true). */
  readonly delOrig?: boolean;
  /** False: quantize later, when `initialize` is called. Default true. */
  readonly initialize?: boolean;
  /** Where it runs, in hqq's words. Default `default`. */
  readonly backend?: HqqBackend;
  /** What an error in each weight costs. From `collectImportance`. */
  readonly importance?: Importance | undefined;
  /** Threads to quantize with, or those of `createWorkers`; default 1. The bytes are the same. */
  readonly threads?: QuantizeOptions['threads'];
}

/** Of `HqqLinear.fromStateDict`. */
export interface FromStateDictOptions extends Pick<HqqLinearOptions, 'runtime' | 'backend' | 'signal'> {
  /** Default the stored one. */
  readonly computeDtype?: LinearDType;
  /** Keep scales and zeros in host memory. Default false. */
  readonly offloadMeta?: boolean;
  /** Module path before the names, as in a whole model's state dict. Default none. */
  readonly path?: string;
}

const SHARED = ['runtime', 'computeDtype', 'backend', 'signal'] as const;
const STATE_OPTIONS: ReadonlySet<string> = new Set<keyof FromStateDictOptions>([...SHARED, 'offloadMeta', 'path']);
const CREATE_OPTIONS: ReadonlySet<string> = new Set<keyof HqqLinearOptions>([
  ...SHARED,
  ...(['delOrig', 'initialize', 'importance', 'threads', 'onProgress'] as const),
]);

/** A layer to quantize. */
export interface CheckedLayer {
  readonly weight: HostTensor;
  /** In the compute dtype. */
  readonly bias: HostTensor | undefined;
  readonly shape: Matrix;
}

/** What a layer takes from a runtime. */
const RUNTIME: readonly (keyof HqqRuntime)[] = ['select', 'backend', 'backends', 'routine'];

/** Throws ERR_BAD_ARGUMENT for options, ERR_TENSOR_MISMATCH for tensors, ERR_NON_FINITE and ERR_DTYPE_OVERFLOW for the bias. */
export function checkCreate(linear: FloatLinear, options: HqqLinearOptions): CheckedLayer {
  checkOptionNames('HqqLinear', options, CREATE_OPTIONS);
  const { computeDtype = 'f16', initialize = true, delOrig = false } = options;
  checkRuntime(options.runtime, RUNTIME);
  checkComputeDtype(computeDtype);
  checkFlag('initialize', initialize);
  checkFlag('delOrig', delOrig);
  if (typeof linear !== 'object' || linear === null) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'HqqLinear: the layer must be an object', { hint: 'Pass { weight, bias }.' });
  }
  if (delOrig) checkDeletable(linear);
  const weight = linear.weight as HostTensor; // memoryReader refuses what is none
  const { shape } = memoryReader('weight', weight);
  const bias = linear.bias ?? undefined;
  if (bias !== undefined) checkBias(bias, shape[0]);
  return { weight, bias: bias && castBias(bias, computeDtype), shape };
}

/** Throws ERR_BAD_ARGUMENT unless `delete` frees weight and bias: a getter of a class, or a property that is fixed, would keep them. */
export function checkDeletable(linear: FloatLinear): void {
  for (const name of ['weight', 'bias'] as const) {
    if (!(name in linear) || Object.getOwnPropertyDescriptor(linear, name)?.configurable) continue;
    throw new LowbitError('ERR_BAD_ARGUMENT', `HqqLinear: delOrig cannot take ${name} out of this record`, {
      hint: 'It must be a property of its own that can be deleted. Pass { weight, bias }, or leave delOrig out.',
      details: { option: 'delOrig', property: name },
    });
  }
}

/** The tensors by name. Throws ERR_BAD_ARGUMENT for options, and for a state dict that is none. */
export function checkFromState(state: StateDict | ReadonlyMap<string, HostTensor>, options: FromStateDictOptions): StateDict {
  checkOptionNames('HqqLinear', options, STATE_OPTIONS);
  checkRuntime(options.runtime, RUNTIME);
  if (options.computeDtype !== undefined) checkComputeDtype(options.computeDtype);
  if (typeof state !== 'object' || state === null || Array.isArray(state)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'HqqLinear: a state dict is an object or a map of tensors', {
      hint: 'Pass what stateDict() gave.',
    });
  }
  return state instanceof Map ? Object.fromEntries(state) : (state as StateDict);
}

/** A quantizer as it is, or the one that Python's words mean. */
export function configured(config: LinearConfig): { readonly quantizer: Quantizer; readonly offloadMeta: boolean } {
  if (!isQuantizer(config)) return quantizerOf(config as Configured, 'HqqLinear');
  return { quantizer: config, offloadMeta: config.config.offload_meta === true };
}
