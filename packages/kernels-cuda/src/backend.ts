// The backend: weights, tensors and programs on one GPU.

import {
  type Backend,
  type CompileOptions,
  checkLinearBias,
  type DeviceTensor,
  type Executable,
  type FormatCodec,
  Holdings,
  type HostTensor,
  isLowbitError,
  type LinearRequest,
  OP_NAMES,
  type PrepareOptions,
  type Program,
  type QuantizedLinear,
  type QuantizedTensor,
  type Routine,
  type StepBytes,
  type StepSize,
  type Support,
  type TensorSpec,
  validateProgram,
  validateQuantized,
} from '@lowbit/core';
import type { BufferHandle, CudaBinding, DeviceHandle, StoredFloat } from './binding.ts';
import { deviceError, native } from './errors.ts';
import { CudaExecutable } from './executable.ts';
import type { PlaneCount } from './gemm.ts';
import { HeldWeights } from './held.ts';
import { canOffload, planLayout, sections } from './layout.ts';
import { CudaLinear, type LinearHome } from './linear.ts';
import { lowerProgram } from './lower.ts';
import { measureProgram } from './measure.ts';
import { deviceMemory } from './memory.ts';
import { holdWeight } from './prepare.ts';
import { gpuRoutines } from './routines.ts';

/** What `cuda()` decided. */
export interface CudaSettings {
  readonly name: string;
  readonly kvDtype: StoredFloat;
  /** `fast`: activations of prompts in one plane. */
  readonly precision: 'exact' | 'fast';
  /** Whether operations of a program run together where they can; false is for tests. */
  readonly fuse: boolean;
  readonly codecs: readonly FormatCodec[];
  /** Bytes of the device for weights, default all; those beyond stay on the host. */
  readonly weightMemory?: number;
}

export class CudaBackend implements Backend {
  readonly spec = 1;
  readonly name: string;
  readonly device: Backend['device'];
  readonly kvDtype: StoredFloat;
  readonly ops = OP_NAMES;
  readonly routines: ReadonlyMap<string, Routine>;
  readonly #binding: CudaBinding;
  readonly #handle: DeviceHandle;
  readonly #settings: CudaSettings;
  readonly #home: LinearHome;
  readonly #planes: PlaneCount;
  readonly #holdings: Holdings<CudaLinear, CudaExecutable, BufferHandle>;
  /** Of layers that are quantized. */
  readonly #held: HeldWeights;
  #disposed = false;
  /** Bytes of weights on the device, also of those on their way. */
  #weightBytes = 0;

  /** Takes over the device. */
  constructor(binding: CudaBinding, device: DeviceHandle, settings: CudaSettings) {
    this.name = settings.name;
    this.kvDtype = settings.kvDtype;
    this.#binding = binding;
    this.#handle = device;
    this.#settings = settings;
    const { name, total, capability, version } = binding.deviceFacts(device);
    this.device = { label: name, memory: total, features: [`sm_${capability}`, `cuda ${cudaVersion(version)}`, settings.precision] };
    this.#holdings = new Holdings(this.name, deviceMemory(binding, device));
    const { owner, release: forget } = this.#holdings;
    const release = (linear: CudaLinear): void => {
      this.#weightBytes -= linear.bytes;
      forget(linear);
    };
    this.#planes = settings.precision === 'exact' ? 2 : 1;
    this.#home = { owner, binding, device, planes: this.#planes, release, floats: (tensor) => this.#holdings.floats(tensor) };
    this.#held = new HeldWeights(binding, device);
    this.routines = gpuRoutines({ binding, device, held: this.#held, check: () => this.#holdings.check() });
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
    this.#holdings.check();
    signal?.throwIfAborted();
    const { format, shape } = weight;
    const { codecs } = this.#settings;
    const layout = planLayout(format, shape, codecs);
    this.#held.trim(); // routines' room, where there is any
    native(() => this.#binding.trimLanes(this.#handle));
    validateQuantized(weight, { codecs });
    checkLinearBias(bias, shape);
    const wanted = offloadMeta && canOffload(layout);
    const needed = sections(layout, { offload: wanted }).deviceBytes + (bias ? 4 * shape[0] : 0);
    const whole = this.#weightBytes + needed > (this.#settings.weightMemory ?? Number.POSITIVE_INFINITY);
    const bytes = whole ? 0 : needed;
    this.#weightBytes += bytes;
    try {
      const held = await holdWeight(this.#home, weight, layout, { bias, codecs, offload: wanted && !whole, whole, signal });
      return this.#holdings.addLinear(new CudaLinear(held, { format, shape, bytes, bias: bias !== undefined }, this.#home));
    } catch (error) {
      this.#weightBytes -= bytes;
      throw error;
    }
  }

  async compile(program: Program, linears: readonly QuantizedLinear[], options: CompileOptions): Promise<Executable> {
    const owned = this.#holdings.linearsOf(program, linears, options).map(({ held }) => held);
    const constants: BufferHandle[] = [];
    let constantBytes = 0;
    const room = (bytes: number): BufferHandle => {
      const buffer = this.#binding.createBuffer(this.#handle, bytes, false);
      constants.push(buffer);
      constantBytes += bytes;
      return buffer;
    };
    try {
      const { spec, named } = lowerProgram(program, owned, {
        kvDtype: this.#settings.kvDtype,
        fuse: this.#settings.fuse,
        planes: this.#planes,
        addressOf: (buffer) => this.#binding.bufferAddress(buffer),
        room,
        constant: (bytes) => {
          const buffer = room(bytes.byteLength);
          this.#binding.writeBuffer(buffer, 0, bytes);
          return buffer;
        },
      });
      const handle = this.#binding.createPlan(this.#handle, spec);
      const plan = { handle, named, constants, constantBytes };
      const { owner, release } = this.#holdings;
      const home = { owner, binding: this.#binding, device: this.#handle, kvDtype: this.#settings.kvDtype, release };
      return this.#holdings.addExecutable(new CudaExecutable(program, plan, options, home));
    } catch (error) {
      for (const buffer of constants) this.#binding.freeBuffer(buffer);
      throw deviceError(error);
    }
  }

  /** Lowers the program for weights that are sizes alone, and lets its caches grow where nothing is. */
  measure(program: Program, linears: readonly LinearRequest[], size: StepSize): StepBytes {
    this.#holdings.check();
    validateProgram(program);
    const { kvDtype, fuse, codecs, weightMemory = Number.POSITIVE_INFINITY } = this.#settings;
    let bytes = this.#weightBytes;
    const weights = linears.map(({ format, shape, offloadMeta = false }) => {
      const layout = planLayout(format, shape, codecs);
      const { deviceBytes, hostBytes } = sections(layout, { offload: offloadMeta && canOffload(layout) });
      const whole = bytes + deviceBytes > weightMemory;
      if (!whole) bytes += deviceBytes;
      return { layout, hostBytes: whole ? sections(layout, { offload: false }).deviceBytes : hostBytes };
    });
    return measureProgram(program, weights, size, { binding: this.#binding, kvDtype, fuse, planes: this.#planes });
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

  /** Also what routines hold for the next call, until a weight wants the room. */
  allocated(): number {
    const held = this.#holdings.allocated();
    return this.#disposed ? held : held + this.#held.bytes + this.#binding.laneFacts(this.#handle).room;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#holdings.dispose()) return;
    this.#disposed = true;
    this.#held[Symbol.dispose]();
    this.#binding.trimLanes(this.#handle);
    this.#binding.closeDevice(this.#handle);
  }
}

/** Of 1000 * major + 10 * minor. */
export function cudaVersion(version: number): string {
  return `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`;
}
