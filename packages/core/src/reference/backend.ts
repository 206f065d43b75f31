// The reference backend: every operation of program.ts in plain TypeScript, sums in float64, results rounded to float32 once per operation.
// It defines what a program computes; other backends are compared with it. It is single-threaded and allocates freely, but holds weights compactly.

import { checkLinearBias } from '../backend/checks.ts';
import { Holdings } from '../backend/holdings.ts';
import { OP_NAMES } from '../backend/ops.ts';
import { hostMemory } from '../backend/slots.ts';
import { elements, toFloat32 } from '../dtype.ts';
import { checkOptionNames } from '../option-names.ts';
import { validateQuantized } from '../quantized.ts';
import type {
  Backend,
  BackendProvider,
  CompileOptions,
  DeviceTensor,
  Executable,
  LinearRequest,
  PrepareOptions,
  QuantizedLinear,
  Support,
} from '../spec/backend.ts';
import { isLowbitError, LowbitError } from '../spec/errors.ts';
import type { FormatCodec, QuantizedTensor } from '../spec/format.ts';
import type { Program } from '../spec/program.ts';
import type { HostTensor, TensorSpec } from '../spec/tensor.ts';
import { ReferenceExecutable } from './executable.ts';
import { type LinearHome, ReferenceLinear } from './linear.ts';
import { deviceBytes, planHolding } from './weights.ts';

/** Of `referenceBackend`. */
export interface ReferenceOptions {
  /** Codecs of custom formats. */
  readonly codecs?: readonly FormatCodec[];
  /** Default `reference`; another name tells two of them apart across a cut. */
  readonly name?: string;
}

/** The reference backend: runs everything, everywhere JavaScript runs, slowly. */
export function referenceBackend(options: ReferenceOptions = {}): BackendProvider {
  checkOptionNames('referenceBackend', options, ['codecs', 'name']);
  const { name = 'reference', codecs = [] } = options;
  if (typeof name !== 'string' || name === '')
    throw new LowbitError('ERR_BAD_ARGUMENT', 'referenceBackend: name is no text', { details: { option: 'name' } });
  return {
    spec: 1,
    name,
    probe: async () => ({ ok: true, detail: 'plain TypeScript, one thread' }),
    open: async (opened) => new ReferenceBackend(name, [...codecs, ...(opened?.codecs ?? [])]),
  };
}

class ReferenceBackend implements Backend {
  readonly spec = 1;
  readonly name: string;
  readonly device = { label: 'host memory, one thread', memory: Number.POSITIVE_INFINITY, features: [] };
  readonly ops = OP_NAMES;
  readonly #codecs: readonly FormatCodec[];
  readonly #holdings: Holdings<ReferenceLinear, ReferenceExecutable, Uint8Array>;
  readonly #home: LinearHome;

  constructor(name: string, codecs: readonly FormatCodec[]) {
    this.name = name;
    this.#codecs = codecs;
    this.#holdings = new Holdings(name, hostMemory);
    const { owner, release } = this.#holdings;
    this.#home = { owner, release, values: (tensor) => elements({ dtype: 'f32', data: this.#holdings.floats(tensor) }) };
  }

  supports(request: LinearRequest): Support {
    try {
      const plan = planHolding(request.format, request.shape, this.#codecs);
      return { level: plan.level, bytes: deviceBytes(plan, request) };
    } catch (error) {
      if (isLowbitError(error)) return { level: 'none', reason: error.message };
      throw error;
    }
  }

  async prepare(weight: QuantizedTensor, { bias, offloadMeta, signal }: PrepareOptions = {}): Promise<QuantizedLinear> {
    this.#holdings.check();
    signal?.throwIfAborted();
    const { format, shape } = weight;
    const plan = planHolding(format, shape, this.#codecs);
    validateQuantized(weight, { codecs: this.#codecs });
    checkLinearBias(bias, shape);
    const held = plan.hold(weight, deviceBytes(plan, { offloadMeta }));
    return this.#holdings.addLinear(new ReferenceLinear(format, shape, held, bias && toFloat32(bias).slice(), this.#home));
  }

  async compile(program: Program, linears: readonly QuantizedLinear[], options: CompileOptions): Promise<Executable> {
    const own = this.#holdings.linearsOf(program, linears, options);
    return this.#holdings.addExecutable(new ReferenceExecutable(program, own, options, this.#holdings));
  }

  alloc(spec: TensorSpec): DeviceTensor {
    return this.#holdings.alloc(spec);
  }

  free(tensor: DeviceTensor): void {
    this.#holdings.free(tensor);
  }

  write(tensor: DeviceTensor, data: Uint8Array): void {
    this.#holdings.write(tensor, data);
  }

  read(tensor: DeviceTensor): Promise<HostTensor> {
    return this.#holdings.read(tensor);
  }

  allocated(): number {
    return this.#holdings.allocated();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#holdings.dispose();
  }
}
