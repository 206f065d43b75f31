// The backend: weights and tensors in native or host memory, products on its own threads.

import {
  type Backend,
  byteLength,
  type CompileOptions,
  checkLinearUse,
  type DeviceTensor,
  disposedError,
  type Executable,
  type FormatCodec,
  HostSlots,
  type HostTensor,
  isLowbitError,
  type LinearRequest,
  type LinearUse,
  LowbitError,
  type Matrix,
  type OpName,
  type PrepareOptions,
  type Program,
  type QuantizedLinear,
  type QuantizedTensor,
  type RecallRequest,
  type Routine,
  type Support,
  type TensorSpec,
  toFloat32,
  validateProgram,
  validateQuantized,
} from '@lowbit/core';
import type { CpuBinding, Isa, Machine, StoredFloat, WeightHandle } from './binding.ts';
import { PackedStore, type StoreOptions } from './cache/store.node.ts';
import { CpuExecutable } from './executable.ts';
import { planLayout } from './layout.ts';
import { CpuLinear, type LinearHome } from './linear.ts';
import { holdWeight, nativeError } from './prepare.ts';
import { programSpec } from './program.ts';
import { nativeRoutines } from './routines.ts';

/** What `cpu()` decided. */
export interface CpuSettings {
  readonly name: string;
  readonly isa: Isa;
  readonly threads: number;
  readonly precision: 'exact' | 'fast';
  readonly kvDtype: StoredFloat;
  readonly codecs: readonly FormatCodec[];
  /** Where packed weights are kept; default nowhere. */
  readonly cache?: StoreOptions | undefined;
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

export class CpuBackend implements Backend {
  readonly spec = 1;
  readonly name: string;
  readonly device: Backend['device'];
  readonly ops = OPS;
  /** Those of quantizers: `quantize(weight, hqq(), { runtime })` with a runtime that has opened this backend takes them. */
  readonly routines: ReadonlyMap<string, Routine>;
  readonly #binding: CpuBinding;
  readonly #codecs: readonly FormatCodec[];
  readonly #machine: Machine;
  readonly kvDtype: StoredFloat;
  readonly #home: LinearHome;
  readonly #slots: HostSlots;
  readonly #store: PackedStore | undefined;
  readonly #owned = new Set<CpuLinear>();
  readonly #executables = new Set<CpuExecutable>();
  #held = 0;
  #disposed = false;

  constructor(binding: CpuBinding, settings: CpuSettings, memory: number) {
    const { name, isa, threads, precision, kvDtype, codecs, cache } = settings;
    this.kvDtype = kvDtype;
    this.name = name;
    this.device = { label: `CPU, ${isa}, ${threads === 1 ? 'one thread' : `${threads} threads`}`, memory, features: [isa, precision] };
    this.#binding = binding;
    this.#codecs = codecs;
    try {
      this.#machine = binding.openMachine(isa, threads);
    } catch (error) {
      throw nativeError(error);
    }
    this.#store = cache && new PackedStore(binding, this.#machine, cache);
    this.routines = nativeRoutines({
      binding,
      machine: () => {
        this.#check();
        return this.#machine;
      },
    });
    const owner = `backend '${name}'`;
    this.#slots = new HostSlots(owner);
    this.#home = {
      owner,
      binding,
      machine: this.#machine,
      planes: precision === 'exact' ? 3 : 2,
      values: (tensor) => {
        this.#check();
        return this.#slots.floats(tensor);
      },
      release: (linear) => {
        this.#held -= linear.bytes;
        this.#owned.delete(linear);
      },
    };
  }

  /** Memory of device and host is one here, so nothing is gained by keeping scales elsewhere: `offloadMeta` changes nothing. */
  supports({ format, shape }: LinearRequest): Support {
    try {
      const { spec, level } = planLayout(format, shape, this.#codecs);
      return { level, bytes: this.#binding.weightBytes(spec) };
    } catch (error) {
      const known = nativeError(error);
      if (isLowbitError(known)) return { level: 'none', reason: known.message };
      throw known;
    }
  }

  async prepare(weight: QuantizedTensor, { bias, origin, signal }: PrepareOptions = {}): Promise<QuantizedLinear> {
    this.#check();
    signal?.throwIfAborted();
    const { format, shape } = weight;
    const plan = planLayout(format, shape, this.#codecs);
    validateQuantized(weight, { codecs: this.#codecs });
    checkBias(bias, shape);
    const bytes = this.#binding.weightBytes(plan.spec) + (bias ? 4 * shape[0] : 0);
    const handle = await holdWeight(this.#home, weight, plan, { bias, codecs: this.#codecs, signal });
    if (this.#disposed) {
      this.#binding.freeWeight(handle);
      throw disposedError(this.#home.owner);
    }
    const linear = this.#adopt(handle, weight, bytes, bias !== undefined);
    if (origin && plan.level !== 'dequant') {
      await this.#store?.keep(handle, { spec: plan.spec, format, shape, origin }, bytes, () => this.#owned.has(linear));
      this.#check();
    }
    return linear;
  }

  /** Weights from the cache on disk. */
  async recall(
    requests: readonly RecallRequest[],
    { signal }: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<readonly (QuantizedLinear | undefined)[]> {
    this.#check();
    signal?.throwIfAborted();
    const store = this.#store;
    if (!store) return requests.map(() => undefined);
    const wanted = requests.flatMap(({ format, shape, origin, bias }, index) => {
      const support = this.supports({ format, shape, use: 'linear' });
      if (support.level === 'none' || support.level === 'dequant') return [];
      checkBias(bias, shape);
      const { spec } = planLayout(format, shape, this.#codecs);
      return [{ index, kept: { spec, format, shape, origin }, bytes: support.bytes, bias: bias && toFloat32(bias) }];
    });
    const handles = await store.recall(wanted, signal);
    const linears: (QuantizedLinear | undefined)[] = requests.map(() => undefined);
    for (const [i, { index, kept, bytes, bias }] of wanted.entries()) {
      const handle = handles[i];
      if (handle === undefined) continue;
      if (this.#disposed) this.#binding.freeWeight(handle);
      else linears[index] = this.#adopt(handle, kept, bytes + (bias ? 4 * kept.shape[0] : 0), bias !== undefined);
    }
    if (this.#disposed) throw disposedError(this.#home.owner);
    return linears;
  }

  #adopt(handle: WeightHandle, weight: Pick<QuantizedTensor, 'format' | 'shape'>, bytes: number, bias: boolean): CpuLinear {
    const { format, shape } = weight;
    const linear = new CpuLinear(handle, { format, shape }, bytes, bias, this.#home);
    this.#held += bytes;
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
    const owned = program.linears.map((use, i) => this.#own(use, linears[i]!));
    const handles = owned.map(({ handle }) => handle);
    const spec = programSpec(program, handles, { contextLength: options.contextLength, kvDtype: this.kvDtype });
    try {
      const handle = this.#binding.compileProgram(this.#machine, spec);
      const constantBytes = spec.constants.reduce((sum, { byteLength }) => sum + byteLength, 0);
      const { owner, binding, planes } = this.#home;
      const executable = new CpuExecutable(handle, program, owned, constantBytes, options, {
        owner,
        binding,
        planes,
        release: (disposed) => this.#executables.delete(disposed),
      });
      this.#executables.add(executable);
      return executable;
    } catch (error) {
      throw nativeError(error);
    }
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
    let bytes = this.#held + this.#slots.bytes;
    for (const executable of this.#executables) bytes += executable.bytes;
    return bytes;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return;
    for (const executable of [...this.#executables]) executable[Symbol.dispose]();
    for (const linear of [...this.#owned]) linear[Symbol.dispose]();
    this.#slots.clear();
    this.#disposed = true;
    await this.#store?.settle();
    this.#binding.closeMachine(this.#machine);
  }

  /** The linear as one of this backend's that fits its place. */
  #own(use: LinearUse, linear: QuantizedLinear): CpuLinear {
    checkLinearUse(use, linear, { own: linear instanceof CpuLinear && this.#owned.has(linear) });
    return linear as CpuLinear;
  }

  #check(): void {
    if (this.#disposed) throw disposedError(this.#home.owner);
  }
}

/** Throws ERR_TENSOR_MISMATCH. */
function checkBias(bias: HostTensor | undefined, shape: Matrix): void {
  if (!bias || (bias.shape.length === 1 && bias.shape[0] === shape[0] && bias.data.byteLength === byteLength(bias))) return;
  throw new LowbitError('ERR_TENSOR_MISMATCH', `a bias of [${bias.shape.join(', ')}] for a linear [${shape.join(', ')}]`, {
    hint: `Pass ${shape[0]} floats.`,
    details: { bias: bias.shape, shape },
  });
}
