// What Linear4bit and Linear8bitLt share: a weight on a backend, called with host tensors. Products and device memory are core's LinearModule.

import {
  type CallOptions,
  checkRuntime,
  type DeviceTensor,
  type Format,
  type HostTensor,
  type LinearDType,
  LinearModule,
  type LinearRuntime,
  linearBackend,
  type Matrix,
  type OutlierCount,
  type QuantizedLinear,
  type QuantizedTensor,
  type Runtime,
} from '@lowbit/core';
import type { StateDict } from './state-dict.ts';

/** A floating-point linear layer: weight [out, in], bias [out]. */
export interface FloatLinear {
  readonly weight: HostTensor;
  readonly bias?: HostTensor | null | undefined;
}

/** What a layer needs of a runtime. */
export type BnbRuntime = LinearRuntime & Pick<Runtime, 'routine'>;

/** Options of every way to make a layer. */
export interface LayerOptions {
  readonly runtime: BnbRuntime;
  /** Name of a backend; default the first of the runtime that takes the format. */
  readonly backend?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Take weights, or stored scales, that are NaN or infinite; see `Nf4Options`. Default false: ERR_NON_FINITE. */
  readonly allowNonFinite?: boolean;
}

/** Options of making a layer from a float one. */
export interface CreateOptions extends LayerOptions, CallOptions {}

/** Options of making a layer from its state dict. */
export interface StateOptions extends LayerOptions {
  /** Module path before the names, as in a whole model's state dict. Default none. */
  readonly path?: string;
}

/** What a layer is made of. */
export interface LayerParts {
  readonly weight: QuantizedTensor;
  /** As it is saved. */
  readonly bias: HostTensor | undefined;
}

/** Throws ERR_BAD_ARGUMENT unless there is a runtime. */
export function checkLayerRuntime({ runtime }: LayerOptions): void {
  checkRuntime(runtime, RUNTIME);
}

const RUNTIME: readonly (keyof BnbRuntime)[] = ['select', 'backend', 'routine'];

/** Throws ERR_UNSUPPORTED_FORMAT or ERR_BACKEND_UNAVAILABLE if no backend would take the layer, before the work of quantizing it. */
export async function checkPlace(format: Format, shape: Matrix, { runtime, backend }: LayerOptions): Promise<void> {
  await linearBackend(runtime, { format, shape, use: 'linear', offloadMeta: false }, backend);
}

/** Puts a layer on a backend; without a `computeDtype` neither x nor bias is rounded. Throws as `LinearModule.create`. */
export function prepareLayer(
  { weight, bias }: LayerParts,
  computeDtype: LinearDType | undefined,
  { runtime, backend, signal }: LayerOptions,
): Promise<LinearModule> {
  return LinearModule.create(weight, { runtime, bias, backend, signal, ...(computeDtype ? { computeDtype } : {}) });
}

/** A layer. Dispose it to give its device memory back. */
export abstract class BnbLinear implements QuantizedLinear {
  readonly #module: LinearModule;
  readonly #bias: HostTensor | undefined;

  protected constructor(module: LinearModule, bias: HostTensor | undefined) {
    this.#module = module;
    this.#bias = bias;
  }

  get format(): Format {
    return this.#module.format;
  }

  /** [out, in]. */
  get shape(): Matrix {
    return this.#module.shape;
  }

  get bias(): boolean {
    return this.#module.bias;
  }

  /** Device bytes held; 0 once disposed. */
  get bytes(): number {
    return this.#module.bytes;
  }

  /** Name of the backend that it is on. Throws ERR_DISPOSED. */
  get backend(): string {
    return this.#module.backend.name;
  }

  /** Of LLM.int8: how many products there were, and how many columns were computed in floating point, on this backend so far. */
  get outliers(): OutlierCount | undefined {
    return this.#module.outliers;
  }

  /** x W^T + bias for x [..., in] of f32, f16 or bf16: [..., out] in the dtype of x. Throws ERR_TENSOR_MISMATCH, ERR_DISPOSED. */
  apply(x: HostTensor): Promise<HostTensor> {
    return this.#module.apply(x, { dtype: x?.dtype as LinearDType });
  }

  forward(x: DeviceTensor, out: DeviceTensor): void {
    this.#module.forward(x, out);
  }

  /** The weight [out, in]. Throws ERR_DISPOSED. */
  abstract dequantize(): Promise<HostTensor>;

  /**
   * The tensors of Python's `state_dict()`, and `bias` if it has one. They share memory with the layer: do not write to them.
   * @throws ERR_DISPOSED, ERR_UNSUPPORTED_FORMAT for what bitsandbytes reads but does not write
   */
  abstract stateDict(): StateDict;

  /** Moves to the backend of that name; default the first that takes the format. Throws as `LinearModule.moveTo`. */
  moveTo(backend?: string, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    return this.#module.moveTo(backend, options);
  }

  [Symbol.dispose](): void {
    this.#module[Symbol.dispose]();
  }

  /** Weight and bias while the layer lives. Throws ERR_DISPOSED. */
  protected get held(): LayerParts {
    this.#module.backend; // throws once disposed
    return { weight: this.#module.weight, bias: this.#bias };
  }
}
