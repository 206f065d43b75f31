// HiggsLinear: a linear layer with a HIGGS weight, used as transformers' is. Products, rotations and device memory are core's LinearModule.

import {
  type CallOptions,
  type Codebook,
  castBias,
  checkBias,
  checkComputeDtype,
  checkRuntime,
  type DeviceTensor,
  type HostTensor,
  type LinearDType,
  LinearModule,
  type LinearRuntime,
  linearBackend,
  type Matrix,
  memoryReader,
  type QuantizedLinear,
  type QuantizedTensor,
  quantize,
  type Runtime,
  type Workers,
} from '@lowbit/core';
import { higgs } from './higgs.ts';
import { HIGGS_OPTIONS, type HiggsOptions } from './options.ts';
import { checkNames } from './refuse.ts';
import { checkFacts, decodeState, encodeState, type LayerFacts, type StateDict } from './state-dict.ts';

/** A floating-point linear layer: weight [out, in], bias [out]. */
export interface FloatLinear {
  readonly weight: HostTensor;
  readonly bias?: HostTensor | null | undefined;
}

/** What a layer needs of a runtime. */
export type HiggsRuntime = LinearRuntime & Pick<Runtime, 'routine'>;

/** Options of every way to make a layer. */
export interface LayerOptions {
  readonly runtime: HiggsRuntime;
  /** Name of a backend; default the first of the runtime that takes the format. */
  readonly backend?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Options of making a layer from a float one: where it runs, and those of `higgs`. */
export interface HiggsLinearOptions extends LayerOptions, CallOptions, HiggsOptions {
  /** Dtype of scales, grid, bias and results. Default that of the weight; of an f32 weight f16, as in Python. */
  readonly computeDtype?: LinearDType | undefined;
  /** As `quantize`. */
  readonly threads?: number | Workers | undefined;
}

/** Options of making a layer from its state dict. */
export interface HiggsLinearStateOptions extends LayerOptions, LayerFacts {
  /** Module path before the names, as in a whole model's state dict. Default none. */
  readonly path?: string;
}

/**
 * A linear layer with a HIGGS weight. x is rounded to `computeDtype`, filled up and rotated in float64, multiplied with the rotated weights (16-bit products
 * of grid and scale, as in HIGGS's kernels), and the result is rounded once. The bias is added, which Python's `HiggsLinear` forgets.
 *
 * @example
 * using layer = await HiggsLinear.create({ weight, bias }, { runtime, bits: 4 });
 * const y = await layer.apply(x); // [..., in] -> [..., out]
 * const again = await HiggsLinear.fromStateDict(layer.stateDict(), { runtime, inFeatures: layer.shape[1] });
 */
export class HiggsLinear implements QuantizedLinear {
  readonly #module: LinearModule;

  private constructor(module: LinearModule) {
    this.#module = module;
  }

  /**
   * Quantizes a layer. Its tensors are not copied where they have the compute dtype: do not write to them afterwards.
   * @throws ERR_BAD_ARGUMENT (options), ERR_TENSOR_MISMATCH (no matrix, a bias that does not fit), ERR_NON_FINITE, ERR_DTYPE_OVERFLOW (a scale or bias
   * beyond `computeDtype`), ERR_UNSUPPORTED_FORMAT or ERR_BACKEND_UNAVAILABLE (a shape that `packing: 'flute'` does not divide; no backend takes it)
   */
  static async create(linear: FloatLinear, options: HiggsLinearOptions): Promise<HiggsLinear> {
    checkNames('HiggsLinear', options, CREATE_OPTIONS);
    checkRuntime(options.runtime, RUNTIME);
    const { runtime, backend, signal, onProgress, threads, computeDtype: asked, ...own } = options;
    if (asked !== undefined) checkComputeDtype(asked);
    const quantizer = higgs(own);
    const { shape, dtype } = memoryReader('weight', linear?.weight);
    const computeDtype = asked ?? (dtype === 'bf16' ? 'bf16' : 'f16');
    const bias = linear.bias ?? undefined;
    if (bias !== undefined) {
      checkBias(bias, shape[0]);
      castBias(bias, computeDtype);
    }
    // Before the work: what could not be run is not made.
    const format = quantizer.format(shape, computeDtype);
    await linearBackend(runtime, { format, shape, use: 'linear', offloadMeta: false }, backend);
    const weight = await quantize(linear.weight, quantizer, { runtime, signal, onProgress, threads, metaDtype: computeDtype });
    return HiggsLinear.#place(weight, bias, computeDtype, options);
  }

  static async #place(
    weight: QuantizedTensor,
    bias: HostTensor | undefined,
    computeDtype: LinearDType,
    { runtime, backend, signal }: LayerOptions,
  ): Promise<HiggsLinear> {
    return new HiggsLinear(await LinearModule.create(weight, { runtime, bias, computeDtype, backend, signal }));
  }

  /**
   * A layer from the tensors that `stateDict`, or Python's, gives; other entries are left alone. It computes in the dtype of the scales.
   * Its tensors are kept, not copied: do not write to them afterwards.
   * @throws ERR_TENSOR_MISMATCH, ERR_BAD_CHECKPOINT, ERR_NON_FINITE, ERR_UNSUPPORTED_FORMAT (all name the tensor), and what `create` throws for options
   */
  static async fromStateDict(state: StateDict | ReadonlyMap<string, HostTensor>, options: HiggsLinearStateOptions): Promise<HiggsLinear> {
    checkNames('HiggsLinear', options, STATE_OPTIONS);
    checkRuntime(options.runtime, RUNTIME);
    checkFacts(options);
    const { weight, bias } = await decodeState(state, options.path ?? '', options);
    return HiggsLinear.#place(weight, bias, (weight.format as Codebook).scale as LinearDType, options);
  }

  get format(): Codebook {
    return this.#module.format as Codebook;
  }

  /** [out, in]. */
  get shape(): Matrix {
    return this.#module.shape;
  }

  get bias(): boolean {
    return this.#module.bias;
  }

  /** Of scales, grid, bias and results. */
  get computeDtype(): LinearDType {
    return this.#module.computeDtype;
  }

  /** Device bytes held; 0 once disposed. */
  get bytes(): number {
    return this.#module.bytes;
  }

  /** Name of the backend that it is on. Throws ERR_DISPOSED. */
  get backend(): string {
    return this.#module.backend.name;
  }

  /** x W^T + bias for x [..., in] of f32, f16 or bf16: [..., out] in `computeDtype`. Throws ERR_TENSOR_MISMATCH, ERR_DISPOSED. */
  apply(x: HostTensor): Promise<HostTensor> {
    return this.#module.apply(x);
  }

  forward(x: DeviceTensor, out: DeviceTensor): void {
    this.#module.forward(x, out);
  }

  /** The weight [out, in] in its original basis, in `computeDtype`. Throws ERR_DISPOSED. */
  dequantize(): Promise<HostTensor> {
    return this.#module.dequantize();
  }

  /**
   * The tensors of Python's `state_dict()` where FLUTE packs the codes, else those of the portable form; and `bias` if it has one. They share memory with
   * the layer: do not write to them. How many columns the weight has is not in them where rows were filled up.
   * @throws ERR_DISPOSED, ERR_UNSUPPORTED_FORMAT for scales in f32
   */
  stateDict(): StateDict {
    this.#module.backend; // throws once disposed
    return encodeState(this.#module.weight, this.#module.biasTensor);
  }

  /** Moves to the backend of that name; default the first that takes the format. Throws as `LinearModule.moveTo`. */
  moveTo(backend?: string, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    return this.#module.moveTo(backend, options);
  }

  [Symbol.dispose](): void {
    this.#module[Symbol.dispose]();
  }
}

const RUNTIME: readonly (keyof HiggsRuntime)[] = ['select', 'backend', 'routine'];
const PLACE = ['runtime', 'backend', 'signal'] as const satisfies readonly (keyof LayerOptions)[];
const CREATE_OPTIONS: readonly (keyof HiggsLinearOptions)[] = [...PLACE, ...HIGGS_OPTIONS, 'computeDtype', 'threads', 'onProgress'];
const STATE_OPTIONS: readonly (keyof HiggsLinearStateOptions)[] = [...PLACE, 'path', 'hadamardSize', 'tile', 'p', 'inFeatures'];
