// The backend: weights and tensors in native or host memory, products on its own threads.

import {
  type Backend,
  type CompileOptions,
  checkLinearBias,
  type DeviceTensor,
  type Executable,
  elements,
  type FormatCodec,
  Holdings,
  type HostTensor,
  hostMemory,
  isLowbitError,
  type LinearRequest,
  OP_NAMES,
  type PrepareOptions,
  type Program,
  type QuantizedLinear,
  type QuantizedTensor,
  type RecallRequest,
  type Routine,
  type StepBytes,
  type StepSize,
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
import { checkMeasured } from './measure.ts';
import { holdWeight, nativeError } from './prepare.ts';
import { measuredStep, programSpec } from './program.ts';
import { nativeRoutines } from './routines.ts';

const bytesOf = (constants: readonly Float32Array[]): number => constants.reduce((sum, { byteLength }) => sum + byteLength, 0);

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

export class CpuBackend implements Backend {
  readonly spec = 1;
  readonly name: string;
  readonly device: Backend['device'];
  readonly ops = OP_NAMES;
  /** Those of quantizers: `quantize(weight, hqq(), { runtime })` with a runtime that has opened this backend takes them. */
  readonly routines: ReadonlyMap<string, Routine>;
  readonly #binding: CpuBinding;
  readonly #codecs: readonly FormatCodec[];
  readonly #machine: Machine;
  readonly kvDtype: StoredFloat;
  readonly #home: LinearHome;
  readonly #holdings: Holdings<CpuLinear, CpuExecutable, Uint8Array>;
  readonly #store: PackedStore | undefined;

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
        this.#holdings.check();
        return this.#machine;
      },
    });
    this.#holdings = new Holdings(name, hostMemory);
    const { owner, release } = this.#holdings;
    this.#home = {
      owner,
      release,
      binding,
      machine: this.#machine,
      planes: precision === 'exact' ? 3 : 2,
      values: (tensor) => elements({ dtype: 'f32', data: this.#holdings.floats(tensor) }),
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
    this.#holdings.check();
    signal?.throwIfAborted();
    const { format, shape } = weight;
    const plan = planLayout(format, shape, this.#codecs);
    validateQuantized(weight, { codecs: this.#codecs });
    checkLinearBias(bias, shape);
    const bytes = this.#binding.weightBytes(plan.spec) + (bias ? 4 * shape[0] : 0);
    const handle = await holdWeight(this.#home, weight, plan, { bias, codecs: this.#codecs, signal });
    const linear = this.#adopt(handle, weight, bytes, bias !== undefined);
    if (origin && plan.level !== 'dequant') {
      await this.#store?.keep(handle, { spec: plan.spec, format, shape, origin }, bytes, () => this.#holdings.has(linear));
      this.#holdings.check();
    }
    return linear;
  }

  /** Weights from the cache on disk. */
  async recall(
    requests: readonly RecallRequest[],
    { signal }: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<readonly (QuantizedLinear | undefined)[]> {
    this.#holdings.check();
    signal?.throwIfAborted();
    const store = this.#store;
    if (!store) return requests.map(() => undefined);
    const wanted = requests.flatMap(({ format, shape, origin, bias }, index) => {
      const support = this.supports({ format, shape, use: 'linear' });
      if (support.level === 'none' || support.level === 'dequant') return [];
      checkLinearBias(bias, shape);
      const { spec } = planLayout(format, shape, this.#codecs);
      return [{ index, kept: { spec, format, shape, origin }, bytes: support.bytes, bias: bias && toFloat32(bias) }];
    });
    const handles = await store.recall(wanted, signal);
    const linears: (QuantizedLinear | undefined)[] = requests.map(() => undefined);
    for (const [i, { index, kept, bytes, bias }] of wanted.entries()) {
      const handle = handles[i];
      if (handle === undefined) continue;
      if (this.#holdings.disposed) this.#binding.freeWeight(handle);
      else linears[index] = this.#adopt(handle, kept, bytes + (bias ? 4 * kept.shape[0] : 0), bias !== undefined);
    }
    this.#holdings.check();
    return linears;
  }

  #adopt(handle: WeightHandle, weight: Pick<QuantizedTensor, 'format' | 'shape'>, bytes: number, bias: boolean): CpuLinear {
    const { format, shape } = weight;
    return this.#holdings.addLinear(new CpuLinear(handle, { format, shape }, bytes, bias, this.#home));
  }

  async compile(program: Program, linears: readonly QuantizedLinear[], options: CompileOptions): Promise<Executable> {
    const owned = this.#holdings.linearsOf(program, linears, options);
    const handles = owned.map(({ handle }) => handle);
    const spec = programSpec(program, handles, { contextLength: options.contextLength, kvDtype: this.kvDtype });
    try {
      const handle = this.#binding.compileProgram(this.#machine, spec);
      const constantBytes = bytesOf(spec.constants);
      const { owner, binding, planes } = this.#home;
      const home = { owner, binding, planes, release: this.#holdings.release };
      return this.#holdings.addExecutable(new CpuExecutable(handle, program, owned, constantBytes, options, home));
    } catch (error) {
      throw nativeError(error);
    }
  }

  /** Plans such a step with weights that are sizes alone. Throws ERR_BAD_ARGUMENT for linears that are not the program's, and for sizes that no step has. */
  measure(program: Program, linears: readonly LinearRequest[], size: StepSize): StepBytes {
    this.#holdings.check();
    validateProgram(program);
    checkMeasured(program, linears, size);
    const specs = linears.map(({ format, shape }) => planLayout(format, shape, this.#codecs).spec);
    const spec = programSpec(program, specs, { contextLength: size.contextLength, kvDtype: this.kvDtype });
    try {
      const step = measuredStep(program, size, this.#home.planes);
      const [scratch, kept, cache] = this.#binding.measureProgram(this.#machine, { ...spec, constants: [] }, step);
      return { constants: bytesOf(spec.constants), scratch, kept, cache };
    } catch (error) {
      throw nativeError(error);
    }
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
    if (!this.#holdings.dispose()) return;
    await this.#store?.settle();
    this.#binding.closeMachine(this.#machine);
  }
}
