// A quantized weight as a layer that its user calls: host tensors in, host tensors out, on whatever backend takes the format. What a method's own
// layer (`HqqLinear`, ...) is built from; it knows no method.

import { codecFor } from './codecs/index.ts';
import { disposedError } from './disposed.ts';
import { castFloat, toFloat32 } from './dtype.ts';
import { castBias, checkBias, checkComputeDtype, checkedRows, checkRuntime } from './linear-checks.ts';
import type { Runtime } from './runtime.ts';
import type { Backend, DeviceTensor, LinearRequest, OutlierCount, QuantizedLinear } from './spec/backend.ts';
import { LowbitError } from './spec/errors.ts';
import type { DequantizeOptions, Format, QuantizedTensor } from './spec/format.ts';
import type { HostTensor, Matrix } from './spec/tensor.ts';
import { float32Tensor } from './tensor.ts';

/** Dtypes that a layer computes in. */
export type LinearDType = NonNullable<DequantizeOptions['dtype']>;

/** What a module needs of a runtime. */
export type LinearRuntime = Pick<Runtime, 'select' | 'backend' | 'codecs' | 'allowDequant'>;

/** Of `LinearModule.create`. */
export interface LinearModuleOptions {
  readonly runtime: LinearRuntime;
  /** [out], any float dtype: added to the product. */
  readonly bias?: HostTensor | undefined;
  /** See `LinearModule.apply`. Default f32. */
  readonly computeDtype?: LinearDType;
  /** Scales and zeros stay in host memory. See `LinearRequest.offloadMeta`. */
  readonly offloadMeta?: boolean | undefined;
  /** Name of a backend; default the first of the runtime that takes the format. */
  readonly backend?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * A linear layer over a quantized weight. Holds the weight twice: its parts in host memory, and prepared on the backend until it is disposed.
 *
 * @example
 * using layer = await LinearModule.create(await quantize(weight, quantizer), { runtime, bias, computeDtype: 'bf16' });
 * const y = await layer.apply(x); // [..., in] -> bf16 [..., out]
 */
export class LinearModule implements QuantizedLinear {
  readonly weight: QuantizedTensor;
  readonly computeDtype: LinearDType;
  readonly #bias: HostTensor | undefined;
  readonly #runtime: LinearRuntime;
  readonly #offloadMeta: boolean;
  readonly #running = new Set<Promise<unknown>>();
  #prepared: { readonly backend: Backend; readonly linear: QuantizedLinear };
  #disposed = false;

  private constructor(weight: QuantizedTensor, options: LinearModuleOptions, bias: HostTensor | undefined, prepared: Prepared) {
    this.weight = weight;
    this.computeDtype = options.computeDtype ?? 'f32';
    this.#bias = bias;
    this.#runtime = options.runtime;
    this.#offloadMeta = options.offloadMeta ?? false;
    this.#prepared = prepared;
  }

  /**
   * Puts the weight on a backend. The bias is rounded to `computeDtype`.
   * @throws ERR_UNSUPPORTED_FORMAT or ERR_BACKEND_UNAVAILABLE (no backend takes it), ERR_TENSOR_MISMATCH (parts or a bias that do not fit),
   * ERR_BAD_ARGUMENT (an unknown `computeDtype`, no runtime, a bias that is no tensor), ERR_NON_FINITE, ERR_DTYPE_OVERFLOW (a bias beyond `computeDtype`)
   */
  static async create(weight: QuantizedTensor, options: LinearModuleOptions): Promise<LinearModule> {
    const { computeDtype = 'f32', runtime, backend, offloadMeta = false, signal } = options;
    checkRuntime(runtime);
    checkComputeDtype(computeDtype);
    if (options.bias !== undefined) checkBias(options.bias, weight.shape[0]);
    const bias = options.bias && castBias(options.bias, computeDtype);
    return new LinearModule(weight, options, bias, await prepare(weight, bias, { runtime, backend, offloadMeta, signal }));
  }

  get format(): Format {
    return this.weight.format;
  }

  get shape(): Matrix {
    return this.weight.shape;
  }

  get bias(): boolean {
    return this.#bias !== undefined;
  }

  /** Device bytes held; 0 once disposed. */
  get bytes(): number {
    return this.#disposed ? 0 : this.#prepared.linear.bytes;
  }

  /** Where `forward` runs, and so where its tensors must live. Throws ERR_DISPOSED. */
  get backend(): Backend {
    return this.#held().backend;
  }

  /** Counts of the backend's linear since it was prepared. See `QuantizedLinear.outliers`. */
  get outliers(): OutlierCount | undefined {
    return this.#prepared.linear.outliers;
  }

  /** The bias [out] in `computeDtype`, as it is added. */
  get biasTensor(): HostTensor | undefined {
    return this.#bias;
  }

  /**
   * x W^T + bias for x [..., in] of f32, f16 or bf16; the result is [..., out]. x is rounded to `computeDtype`, the backend multiplies it with the
   * f32 numbers of the weight and adds up in f32 or wider, and the result is rounded to `dtype` (default `computeDtype`) once.
   * @throws ERR_TENSOR_MISMATCH for an x that does not fit, ERR_BAD_ARGUMENT for one without a shape, ERR_DISPOSED
   */
  apply(x: HostTensor, options: { readonly dtype?: LinearDType } = {}): Promise<HostTensor> {
    const run = this.#apply(x, options.dtype ?? this.computeDtype);
    this.#running.add(run);
    const done = () => this.#running.delete(run);
    run.then(done, done);
    return run;
  }

  async #apply(x: HostTensor, dtype: LinearDType): Promise<HostTensor> {
    const { backend, linear } = this.#held();
    const [out, inp] = this.shape;
    const rows = checkedRows(x, this.shape);
    const shape = [...x.shape.slice(0, -1), out];
    if (rows === 0) return castFloat(float32Tensor(shape, []), dtype);
    const values = toFloat32(castFloat(x, this.computeDtype));
    const slots: DeviceTensor[] = [];
    try {
      const input = backend.alloc({ dtype: 'f32', shape: [rows, inp] });
      slots.push(input);
      const output = backend.alloc({ dtype: 'f32', shape: [rows, out] });
      slots.push(output);
      backend.write(input, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
      linear.forward(input, output);
      const { data } = await backend.read(output);
      return castFloat({ dtype: 'f32', shape, data }, dtype);
    } finally {
      for (const slot of slots) backend.free(slot);
    }
  }

  /** On the device, in f32: tensors of `backend`. See `QuantizedLinear.forward`. */
  forward(x: DeviceTensor, out: DeviceTensor): void {
    this.#held().linear.forward(x, out);
  }

  /** The weight [out, in] in `computeDtype`, every operation rounded to it as the format's codec says. Throws ERR_DISPOSED. */
  async dequantize(): Promise<HostTensor> {
    this.#held();
    return codecFor(this.format, this.#runtime.codecs).dequantize(this.weight, { dtype: this.computeDtype });
  }

  /**
   * Moves to the backend of that name (default: the first that takes the format). The old one is left when the new one is ready, so a failure
   * changes nothing. Throws as `create`, and ERR_DISPOSED.
   */
  async moveTo(backend?: string, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    this.#held();
    const offloadMeta = this.#offloadMeta;
    const next = await prepare(this.weight, this.#bias, { runtime: this.#runtime, backend, offloadMeta, signal: options.signal });
    if (this.#disposed) {
      next.linear[Symbol.dispose]();
      throw this.#gone();
    }
    const { linear } = this.#prepared;
    this.#prepared = next;
    await Promise.allSettled(this.#running); // they may be using the old one
    linear[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#prepared.linear[Symbol.dispose]();
  }

  #held(): Prepared {
    if (this.#disposed) throw this.#gone();
    return this.#prepared;
  }

  #gone(): LowbitError {
    return disposedError(`a linear layer [${this.shape.join(', ')}]`);
  }
}

interface Prepared {
  readonly backend: Backend;
  readonly linear: QuantizedLinear;
}

async function prepare(
  weight: QuantizedTensor,
  bias: HostTensor | undefined,
  options: Pick<LinearModuleOptions, 'runtime' | 'backend' | 'signal'> & { readonly offloadMeta: boolean },
): Promise<Prepared> {
  const { runtime, backend: name, offloadMeta, signal } = options;
  signal?.throwIfAborted();
  const backend = await linearBackend(runtime, { format: weight.format, shape: weight.shape, use: 'linear', offloadMeta }, name);
  const wide = bias && float32Tensor(bias.shape, toFloat32(bias));
  return { backend, linear: await backend.prepare(weight, { bias: wide, offloadMeta, signal }) };
}

/**
 * Where a linear would go: the backend of that name, else the first that takes the format. For asking before a weight is quantized.
 * @throws ERR_UNSUPPORTED_FORMAT or ERR_BACKEND_UNAVAILABLE
 */
export function linearBackend(runtime: LinearRuntime, request: LinearRequest, name?: string): Promise<Backend> {
  return name === undefined ? runtime.select([request]) : named(runtime, name, request);
}

/** The backend of that name, if it takes the format. */
async function named(runtime: LinearRuntime, name: string, request: LinearRequest): Promise<Backend> {
  const { format, shape } = request;
  const backend = await runtime.backend(name);
  const support = backend.supports(request);
  if (support.level !== 'none' && (support.level !== 'dequant' || runtime.allowDequant)) return backend;
  const reason = support.level === 'none' ? support.reason : 'it would expand the weight to floats';
  throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `backend '${name}' does not take this weight [${shape.join(', ')}]: ${reason}`, {
    hint: support.level === 'none' ? 'Choose another backend.' : 'Choose another backend, or allowDequant: true for the runtime.',
    details: { backend: name, format, shape },
  });
}
