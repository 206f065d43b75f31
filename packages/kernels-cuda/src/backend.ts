// The backend: weights, tensors and programs on one GPU.

import {
  type Backend,
  byteLength,
  type CompileOptions,
  checkLinearUse,
  type DeviceTensor,
  disposedError,
  type Executable,
  type FormatCodec,
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
  type Routine,
  type Support,
  type TensorSpec,
  validateProgram,
  validateQuantized,
} from '@lowbit/core';
import type { BufferHandle, CudaBinding, DeviceHandle, StoredFloat } from './binding.ts';
import { deviceError } from './errors.ts';
import { CudaExecutable } from './executable.ts';
import { canOffload, planLayout, sections } from './layout.ts';
import { CudaLinear, type LinearHome } from './linear.ts';
import { lowerProgram } from './lower.ts';
import { holdWeight } from './prepare.ts';
import { gpuRoutines } from './routines.ts';
import { DeviceSlots } from './slots.ts';

/** What `cuda()` decided. */
export interface CudaSettings {
  readonly name: string;
  readonly kvDtype: StoredFloat;
  /** Whether operations of a program run together where they can; false is for tests. */
  readonly fuse: boolean;
  readonly codecs: readonly FormatCodec[];
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

export class CudaBackend implements Backend {
  readonly spec = 1;
  readonly name: string;
  readonly device: Backend['device'];
  readonly kvDtype: StoredFloat;
  readonly ops = OPS;
  readonly routines: ReadonlyMap<string, Routine>;
  readonly #binding: CudaBinding;
  readonly #handle: DeviceHandle;
  readonly #settings: CudaSettings;
  readonly #home: LinearHome;
  readonly #slots: DeviceSlots;
  readonly #owned = new Set<CudaLinear>();
  readonly #executables = new Set<CudaExecutable>();
  #held = 0;
  #disposed = false;

  /** Takes over the device. */
  constructor(binding: CudaBinding, device: DeviceHandle, settings: CudaSettings) {
    this.name = settings.name;
    this.kvDtype = settings.kvDtype;
    this.#binding = binding;
    this.#handle = device;
    this.#settings = settings;
    const { name, total, capability, version } = binding.deviceFacts(device);
    this.device = { label: name, memory: total, features: [`sm_${capability}`, `cuda ${cudaVersion(version)}`] };
    const owner = `backend '${this.name}'`;
    this.#slots = new DeviceSlots(owner, binding, device);
    this.routines = gpuRoutines({ binding, device, check: () => this.#check() });
    this.#home = {
      owner,
      binding,
      device,
      floats: (tensor) => {
        this.#check();
        return this.#slots.floats(tensor);
      },
      release: (linear) => {
        this.#held -= linear.bytes;
        this.#owned.delete(linear);
      },
    };
  }

  supports({ format, shape, offloadMeta = false }: LinearRequest): Support {
    try {
      const layout = planLayout(format, shape, this.#settings.codecs);
      const offload = offloadMeta && canOffload(layout);
      return { level: layout.level, bytes: sections(layout, { offload }).deviceBytes };
    } catch (error) {
      if (isLowbitError(error)) return { level: 'none', reason: error.message };
      throw error;
    }
  }

  async prepare(weight: QuantizedTensor, { bias, offloadMeta = false, signal }: PrepareOptions = {}): Promise<QuantizedLinear> {
    this.#check();
    signal?.throwIfAborted();
    const { format, shape } = weight;
    const { codecs } = this.#settings;
    const layout = planLayout(format, shape, codecs);
    validateQuantized(weight, { codecs });
    checkBias(bias, shape);
    const offload = offloadMeta && canOffload(layout);
    const bytes = sections(layout, { offload }).deviceBytes + (bias ? 4 * shape[0] : 0);
    const held = await holdWeight(this.#home, weight, layout, { bias, codecs, offload, signal });
    const linear = new CudaLinear(held, { format, shape, bytes, bias: bias !== undefined }, this.#home);
    this.#held += bytes;
    this.#owned.add(linear);
    if (this.#disposed) {
      linear[Symbol.dispose]();
      throw disposedError(this.#home.owner);
    }
    return linear;
  }

  async compile(program: Program, linears: readonly QuantizedLinear[], options: CompileOptions): Promise<Executable> {
    this.#check();
    options.signal?.throwIfAborted();
    validateProgram(program);
    if (linears.length !== program.linears.length) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `the program has ${program.linears.length} linears, got ${linears.length}`);
    }
    const owned = program.linears.map((use, i) => this.#own(use, linears[i]!).held);
    const constants: BufferHandle[] = [];
    let constantBytes = 0;
    try {
      const { spec, named } = lowerProgram(program, owned, {
        kvDtype: this.#settings.kvDtype,
        fuse: this.#settings.fuse,
        addressOf: (buffer) => this.#binding.bufferAddress(buffer),
        constant: (bytes) => {
          const buffer = this.#binding.createBuffer(this.#handle, bytes.byteLength, false);
          constants.push(buffer);
          constantBytes += bytes.byteLength;
          this.#binding.writeBuffer(buffer, 0, bytes);
          return buffer;
        },
      });
      const handle = this.#binding.createPlan(this.#handle, spec);
      const plan = { handle, named, constants, constantBytes };
      const executable = new CudaExecutable(program, plan, options, {
        owner: this.#home.owner,
        binding: this.#binding,
        device: this.#handle,
        kvDtype: this.#settings.kvDtype,
        release: (disposed) => this.#executables.delete(disposed),
      });
      this.#executables.add(executable);
      return executable;
    } catch (error) {
      for (const buffer of constants) this.#binding.freeBuffer(buffer);
      throw deviceError(error);
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
    this.#binding.closeDevice(this.#handle);
  }

  /** The linear as one of this backend's that fits its place. */
  #own(use: LinearUse, linear: QuantizedLinear): CudaLinear {
    checkLinearUse(use, linear, { own: linear instanceof CudaLinear && this.#owned.has(linear) });
    return linear as CudaLinear;
  }

  #check(): void {
    if (this.#disposed) throw disposedError(this.#home.owner);
  }
}

/** Of 1000 * major + 10 * minor. */
export function cudaVersion(version: number): string {
  return `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`;
}

/** Throws ERR_TENSOR_MISMATCH. */
function checkBias(bias: HostTensor | undefined, shape: Matrix): void {
  if (!bias || (bias.shape.length === 1 && bias.shape[0] === shape[0] && bias.data.byteLength === byteLength(bias))) return;
  throw new LowbitError('ERR_TENSOR_MISMATCH', `a bias of [${bias.shape.join(', ')}] for a linear [${shape.join(', ')}]`, {
    hint: `Pass ${shape[0]} floats.`,
    details: { bias: bias.shape, shape },
  });
}
