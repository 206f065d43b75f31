// The reference backend: every operation of program.ts in plain TypeScript, sums in float64, results rounded to float32 once per operation.
// It defines what a program computes; other backends are compared with it. It is single-threaded and allocates freely, but holds weights compactly.

import { disposedError } from '../disposed.ts';
import { byteLength, toFloat32 } from '../dtype.ts';
import { checkLinearUse, HostSlots } from '../host-slots.ts';
import { checkOptionNames } from '../option-names.ts';
import { validateProgram } from '../program/validate.ts';
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
import type { LinearUse, OpName, Program } from '../spec/program.ts';
import type { HostTensor, TensorSpec } from '../spec/tensor.ts';
import { ReferenceExecutable } from './executable.ts';
import { ReferenceLinear } from './linear.ts';
import { createMemory, type Memory } from './memory.ts';
import { deviceBytes, planHolding } from './weights.ts';

export interface ReferenceOptions {
  /** Codecs of custom formats. */
  readonly codecs?: readonly FormatCodec[];
  /** Default `reference`; another name tells two of them apart across a cut. */
  readonly name?: string;
}

const OPS: ReadonlySet<OpName> = new Set<OpName>([
  'embed',
  'input',
  'inject',
  'positionEmbed',
  'norm',
  'linear',
  'rope',
  'attend',
  'remember',
  'activate',
  'gate',
  'add',
  'scale',
  'softcap',
  'slice',
  'select',
  'route',
  'expertLinear',
  'combine',
]);

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
  readonly ops = OPS;
  readonly #codecs: readonly FormatCodec[];
  readonly #memory: Memory = createMemory();
  readonly #slots: HostSlots;
  readonly #owned = new Set<Disposable>();
  #disposed = false;

  constructor(name: string, codecs: readonly FormatCodec[]) {
    this.name = name;
    this.#codecs = codecs;
    this.#slots = new HostSlots(this.#owner());
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
    this.#check();
    signal?.throwIfAborted();
    const { format, shape } = weight;
    const plan = planHolding(format, shape, this.#codecs);
    validateQuantized(weight, { codecs: this.#codecs });
    if (bias && (bias.shape.length !== 1 || bias.shape[0] !== shape[0] || bias.data.byteLength !== byteLength(bias))) {
      throw new LowbitError('ERR_TENSOR_MISMATCH', `a bias of [${bias.shape.join(', ')}] for a linear [${shape.join(', ')}]`);
    }
    const linear = new ReferenceLinear(
      format,
      shape,
      plan.hold(weight, deviceBytes(plan, { offloadMeta })),
      bias && toFloat32(bias).slice(),
      {
        owner: this.#owner(),
        memory: this.#memory,
        values: (tensor) => {
          this.#check();
          return this.#slots.floats(tensor);
        },
        forget: (disposed) => this.#owned.delete(disposed),
      },
    );
    this.#owned.add(linear);
    return linear;
  }

  async compile(program: Program, linears: readonly QuantizedLinear[], options: CompileOptions): Promise<Executable> {
    this.#check();
    options.signal?.throwIfAborted();
    validateProgram(program);
    if (linears.length !== program.linears.length) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `the program has ${program.linears.length} linears, got ${linears.length}`);
    }
    const applied = program.linears.map((use, i) => this.#own(use, linears[i]!));
    const executable = new ReferenceExecutable(program, applied, options, {
      owner: this.#owner(),
      memory: this.#memory,
      forget: (disposed) => this.#owned.delete(disposed),
    });
    this.#owned.add(executable);
    return executable;
  }

  alloc(spec: TensorSpec): DeviceTensor {
    this.#check();
    return this.#slots.alloc(spec);
  }

  free(tensor: DeviceTensor): void {
    this.#check();
    this.#slots.free(tensor);
  }

  write(tensor: DeviceTensor, data: Uint8Array): void {
    this.#check();
    this.#slots.write(tensor, data);
  }

  async read(tensor: DeviceTensor): Promise<HostTensor> {
    this.#check();
    return this.#slots.read(tensor);
  }

  allocated(): number {
    return this.#memory.allocated() + this.#slots.bytes;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return;
    for (const owned of [...this.#owned]) owned[Symbol.dispose]();
    this.#slots.clear();
    this.#disposed = true;
  }

  /** The linear as one of this backend's that fits its place. */
  #own(use: LinearUse, linear: QuantizedLinear): ReferenceLinear {
    checkLinearUse(use, linear, { own: linear instanceof ReferenceLinear && this.#owned.has(linear) });
    return linear as ReferenceLinear;
  }

  #check(): void {
    if (this.#disposed) throw disposedError(this.#owner());
  }

  #owner(): string {
    return `backend '${this.name}'`;
  }
}
