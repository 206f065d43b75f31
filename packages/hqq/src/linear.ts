// HqqLinear: a linear layer quantized with HQQ, used as Python's HQQLinear is. Products and device memory are core's LinearModule.

import {
  type CallOptions,
  codecFor,
  type DeviceTensor,
  disposedError,
  type Format,
  grouping,
  type HostTensor,
  type LinearDType,
  LinearModule,
  LowbitError,
  type Matrix,
  type QuantizedLinear,
  type Quantizer,
  quantize,
} from '@lowbit/core';
import { type HqqSettings, hqqSettings } from '@lowbit/layouts';
import { type HqqBackend, runtimeBackend } from './backends.ts';
import type { LinearConfig } from './config.ts';
import {
  checkCreate,
  checkDeletable,
  checkFromState,
  configured,
  type FloatLinear,
  type FromStateDictOptions,
  type HqqLinearOptions,
  type HqqRuntime,
} from './linear-options.ts';
import { SharedWork } from './shared-work.ts';
import { decodeState, encodeState, type StateDict } from './state-dict.ts';

/** What is needed to quantize, until it is done. */
interface Pending {
  readonly source: FloatLinear;
  readonly weight: HostTensor;
  readonly bias: HostTensor | undefined;
  readonly quantizer: Quantizer;
  readonly options: HqqLinearOptions;
}

interface Identity {
  readonly format: Format;
  readonly shape: Matrix;
  readonly bias: boolean;
  readonly computeDtype: LinearDType;
  readonly settings: HqqSettings;
  readonly runtime: HqqRuntime;
  readonly offloadMeta: boolean;
}

/**
 * A linear layer with a weight quantized by HQQ. Dispose it to give its device memory back.
 *
 * @example
 * using layer = await HqqLinear.create({ weight, bias }, hqq({ bits: 4, groupSize: 64 }), { runtime, computeDtype: 'bf16' });
 * const y = await layer.apply(x); // [..., in] -> bf16 [..., out]
 * const again = await HqqLinear.fromStateDict(layer.stateDict(), { runtime });
 */
export class HqqLinear implements QuantizedLinear {
  readonly format: Format;
  readonly shape: Matrix;
  readonly bias: boolean;
  readonly computeDtype: LinearDType;
  /** `weight_quant_params` of the layer. */
  readonly settings: HqqSettings;
  readonly #runtime: HqqRuntime;
  readonly #offloadMeta: boolean;
  #backend: HqqBackend;
  #pending: Pending | undefined;
  readonly #work = new SharedWork();
  #module: LinearModule | undefined;
  #disposed = false;

  private constructor(identity: Identity, backend: HqqBackend) {
    this.format = identity.format;
    this.shape = identity.shape;
    this.bias = identity.bias;
    this.computeDtype = identity.computeDtype;
    this.settings = identity.settings;
    this.#runtime = identity.runtime;
    this.#offloadMeta = identity.offloadMeta;
    this.#backend = backend;
    this.checkBackend(backend);
  }

  /**
   * Quantizes a layer; with `initialize: false` only checks that it can be.
   * Its tensors are not copied (the weight is kept until it is quantized, a bias in `computeDtype` for good): do not write to them afterwards.
   * @throws ERR_BAD_ARGUMENT (options, a configuration that is none), ERR_TENSOR_MISMATCH (no matrix, a bias that does not fit), ERR_UNSUPPORTED_FORMAT
   * (a shape or backend that the settings do not fit), ERR_BACKEND_UNAVAILABLE, ERR_NON_FINITE, ERR_DTYPE_OVERFLOW (use bf16 or f32)
   */
  static async create(linear: FloatLinear, config: LinearConfig, options: HqqLinearOptions): Promise<HqqLinear> {
    const { weight, bias, shape } = checkCreate(linear, options);
    const { computeDtype = 'f16', initialize = true, backend = 'default', runtime } = options;
    const { quantizer, offloadMeta } = configured(config);
    const format = quantizer.format(shape, computeDtype);
    const identity = { format, shape, bias: bias !== undefined, computeDtype, settings: hqqSettings(quantizer), runtime, offloadMeta };
    const layer = new HqqLinear(identity, backend);
    layer.#pending = { source: linear, weight, bias, quantizer, options };
    if (initialize) await layer.initialize();
    return layer;
  }

  /** `create` for tensors by themselves. */
  static fromWeights(
    weight: HostTensor,
    bias: HostTensor | null | undefined,
    config: LinearConfig,
    options: HqqLinearOptions,
  ): Promise<HqqLinear> {
    return HqqLinear.create({ weight, bias }, config, options);
  }

  /**
   * A layer from the 19 tensors (and bias) that `stateDict`, or Python's with its encoding on, gives. Other entries are left alone.
   * The tensors are kept, not copied: do not write to them afterwards.
   * @throws ERR_TENSOR_MISMATCH, ERR_UNSUPPORTED_FORMAT, ERR_NON_FINITE, ERR_DTYPE_OVERFLOW, and what `create` throws for options
   */
  static async fromStateDict(state: StateDict | ReadonlyMap<string, HostTensor>, options: FromStateDictOptions): Promise<HqqLinear> {
    const tensors = checkFromState(state, options);
    const { computeDtype: wanted, path = '', backend = 'default', offloadMeta = false, runtime, signal } = options;
    const { weight, settings, computeDtype, bias } = await decodeState(tensors, path, wanted);
    const { format, shape } = weight;
    const layer = new HqqLinear({ format, shape, bias: bias !== undefined, computeDtype, settings, runtime, offloadMeta }, backend);
    layer.#module = await LinearModule.create(weight, {
      runtime,
      bias,
      computeDtype,
      offloadMeta,
      signal,
      backend: layer.checkBackend(backend),
    });
    return layer;
  }

  /** Whether it is quantized. */
  get initialized(): boolean {
    return this.#module !== undefined;
  }

  /** Device bytes held; 0 before `initialize` and after dispose. */
  get bytes(): number {
    return this.#module?.bytes ?? 0;
  }

  /** Its backend in hqq's words. */
  get backend(): HqqBackend {
    return this.#backend;
  }

  /**
   * Quantizes and prepares a layer made with `initialize: false`; does nothing where that is done. After an abort or error it can be called again.
   * Calls at the same time share the work, each with its own signal. Throws as `create`, and ERR_DISPOSED.
   */
  async initialize({ signal, onProgress }: CallOptions = {}): Promise<void> {
    const options = this.#pending?.options;
    const call = { signal: signal ?? options?.signal, onProgress: onProgress ?? options?.onProgress };
    const isDone = () => {
      if (this.#disposed) throw this.#gone();
      return this.#pending === undefined;
    };
    await this.#work.run((shared) => this.#initialize(this.#pending!, shared), isDone, call);
  }

  async #initialize({ source, weight, bias, quantizer, options }: Pending, call: CallOptions): Promise<void> {
    const { computeDtype } = this;
    const { runtime, importance, threads } = options;
    if (options.delOrig) checkDeletable(source);
    const backend = this.checkBackend(this.#backend);
    // Before the work: a format that nothing here runs should not be solved first.
    if (backend === undefined) await runtime.select([{ format: this.format, shape: this.shape, offloadMeta: this.#offloadMeta }]);
    const quantized = await quantize(weight, quantizer, { metaDtype: computeDtype, runtime, importance, threads, ...call });
    const module = await LinearModule.create(quantized, {
      ...{ runtime, bias, computeDtype, backend, offloadMeta: this.#offloadMeta },
      signal: call.signal,
    });
    if (this.#disposed) {
      module[Symbol.dispose]();
      throw this.#gone();
    }
    this.#module = module;
    this.#pending = undefined;
    if (options.delOrig) {
      delete source.weight;
      delete source.bias;
    }
  }

  /** x W^T + bias, [..., in] -> [..., out]. See `LinearModule.apply`. Throws ERR_NOT_INITIALIZED, ERR_DISPOSED, ERR_TENSOR_MISMATCH. */
  async apply(x: HostTensor, options?: { readonly dtype?: LinearDType }): Promise<HostTensor> {
    return this.#ready('apply').apply(x, options);
  }

  forward(x: DeviceTensor, out: DeviceTensor): void {
    this.#ready('forward').forward(x, out);
  }

  /** The weight [out, in] in `computeDtype`: the codes in it, less the zero, rounded, times the scale, rounded. Throws as `apply`. */
  async dequantize(): Promise<HostTensor> {
    return this.#ready('dequantize').dequantize();
  }

  /** Codes as u8: the grouped matrix ([groups, size] on axis 1, [size, groups] on axis 0), or [out, in] with `reshape`. Throws as `apply`. */
  unpack({ reshape = false }: { readonly reshape?: boolean } = {}): HostTensor {
    const { weight } = this.#ready('unpack');
    const codes = codecFor(weight.format).unpackRows(weight, 0, this.shape[0]);
    if (reshape || weight.format.kind !== 'affine' || !this.settings.channel_wise) return codes;
    const { rows, columns } = grouping(weight.format, this.shape);
    return { dtype: codes.dtype, shape: [rows, columns], data: codes.data };
  }

  /**
   * The layer in Python's encoded form: 19 tensors, and `bias` if it has one. Quantized scales and zeros, which Python cannot encode, have a form of
   * lowbit's own. The tensors share memory with the layer: do not write to them.
   * @throws ERR_NOT_INITIALIZED, ERR_DISPOSED, ERR_UNSUPPORTED_FORMAT (a float view that the codes do not divide into)
   */
  stateDict(): StateDict {
    const { weight, biasTensor } = this.#ready('stateDict');
    return encodeState({ weight, settings: this.settings, computeDtype: this.computeDtype, bias: biasTensor });
  }

  /**
   * Moves to what a backend name of hqq's stands for. The names: `HqqBackend`.
   * @throws ERR_UNSUPPORTED_FORMAT (not for such a layer, or nothing here does it), ERR_BACKEND_UNAVAILABLE; the layer then stays where it is
   */
  async setBackend(name: HqqBackend, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    if (this.#disposed) throw this.#gone();
    const backend = this.checkBackend(name);
    await this.#work.idle(options.signal);
    if (this.#disposed) throw this.#gone();
    await this.#module?.moveTo(backend, options);
    this.#backend = name;
  }

  /**
   * The runtime's backend that `setBackend` would move to; undefined: the first that takes the format. Throws as `setBackend`, calling the layer
   * `where`.
   */
  checkBackend(name: HqqBackend, where = 'the layer'): string | undefined {
    return runtimeBackend(name, this, this.#runtime.backends, where);
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    this.#pending = undefined;
    this.#module?.[Symbol.dispose]();
  }

  #ready(method: string): LinearModule {
    if (this.#disposed) throw this.#gone();
    if (this.#module) return this.#module;
    throw new LowbitError('ERR_NOT_INITIALIZED', `HqqLinear: ${method} before the layer is quantized`, {
      hint: 'It was made with initialize: false. Await initialize() first.',
      details: { shape: this.shape },
    });
  }

  #gone(): LowbitError {
    return disposedError(`the HqqLinear [${this.shape.join(', ')}]`);
  }
}
