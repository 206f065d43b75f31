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
  type Support,
  type TensorSpec,
  validateProgram,
  validateQuantized,
} from '@lowbit/core';
import type { Counts, Machine } from './device.ts';
import { WebGpuExecutable } from './executable.ts';
import { expertBanks } from './experts.ts';
import { pieceBytes, piecesOf, planLayout, type StoredFloat } from './layout.ts';
import { type LinearHome, WebGpuLinear } from './linear.ts';
import { type LoweredProgram, lowerProgram } from './lower.ts';
import { holdWeight } from './prepare.ts';
import { DeviceSlots } from './slots.ts';
import type { Storage } from './storage.ts';

/** What `webgpu()` decided. */
export interface WebGpuSettings {
  readonly name: string;
  readonly kvDtype: StoredFloat;
  readonly codecs: readonly FormatCodec[];
  /** The device was made for this backend: disposing ends it. */
  readonly own: boolean;
  readonly features: readonly string[];
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

export class WebGpuBackend implements Backend {
  readonly spec = 1;
  readonly name: string;
  readonly device: Backend['device'];
  readonly kvDtype: StoredFloat;
  readonly ops = OPS;
  readonly #machine: Machine;
  readonly #settings: WebGpuSettings;
  readonly #home: LinearHome;
  readonly #slots: DeviceSlots;
  readonly #owned = new Set<WebGpuLinear>();
  readonly #executables = new Set<WebGpuExecutable>();
  #disposed = false;

  /** Takes over the machine. */
  constructor(machine: Machine, settings: WebGpuSettings) {
    this.name = settings.name;
    this.kvDtype = settings.kvDtype;
    this.#machine = machine;
    this.#settings = settings;
    // WebGPU tells nobody how much memory there is.
    this.device = { label: machine.label, memory: 0, features: settings.features };
    const owner = `backend '${this.name}'`;
    this.#slots = new DeviceSlots(owner, machine);
    this.#home = {
      owner,
      machine,
      floats: (tensor) => {
        this.#check();
        return this.#slots.floats(tensor);
      },
      release: (linear) => {
        this.#owned.delete(linear);
      },
    };
  }

  /** What its GPU did so far, for tests and benchmarks. */
  get counts(): Readonly<Counts> {
    return this.#machine.counts;
  }

  supports({ format, shape }: LinearRequest): Support {
    try {
      const layout = planLayout(format, shape, this.#settings.codecs, this.#machine.limits);
      const bytes = piecesOf(layout, this.#machine.limits).reduce((sum, piece) => sum + piece.bytes, 0);
      return { level: layout.level, bytes };
    } catch (error) {
      if (isLowbitError(error)) return { level: 'none', reason: error.message };
      throw error;
    }
  }

  /** `offloadMeta` changes nothing: shaders read no memory of the host. */
  async prepare(weight: QuantizedTensor, { bias, signal }: PrepareOptions = {}): Promise<QuantizedLinear> {
    this.#check();
    signal?.throwIfAborted();
    const { format, shape } = weight;
    const { codecs } = this.#settings;
    const layout = planLayout(format, shape, codecs, this.#machine.limits);
    validateQuantized(weight, { codecs });
    checkBias(bias, shape);
    const held = await holdWeight(this.#machine, weight, layout, { bias, codecs, signal });
    const bytes = held.pieces.reduce((sum, { piece }) => sum + pieceBytes(piece, held), 0);
    const linear = new WebGpuLinear(held, { format, shape, bytes, bias: bias !== undefined }, this.#home);
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
    const own = program.linears.map((use, i) => this.#own(use, linears[i]!));
    const machine = this.#machine;
    return machine.run(async () => {
      const lowered = await this.#lower(program, own);
      options.signal?.throwIfAborted();
      this.#check();
      const { made: executable, settled } = machine.claim('a program', 0, () => {
        return new WebGpuExecutable(program, lowered, options, {
          owner: this.#home.owner,
          machine,
          kvDtype: this.#settings.kvDtype,
          release: (disposed) => this.#executables.delete(disposed),
        });
      });
      this.#executables.add(executable);
      try {
        await settled;
        // Those of decoding; prompts make theirs when the first one comes.
        await executable.warm([1, 1, 1, 1, 1]);
        options.signal?.throwIfAborted();
        this.#check();
      } catch (error) {
        executable[Symbol.dispose]();
        throw error;
      }
      return executable;
    });
  }

  /** Experts are moved side by side first. */
  async #lower(program: Program, linears: readonly WebGpuLinear[]): Promise<LoweredProgram> {
    const machine = this.#machine;
    const encoder = machine.device.createCommandEncoder();
    const retired: Storage[] = [];
    try {
      const { made, settled } = machine.claim('experts of a layer', 0, () =>
        // Weights are read when all experts have their place: a router's own may be among them.
        lowerProgram(
          program,
          linears.map(({ held }) => held),
          {
            kvDtype: this.#settings.kvDtype,
            banks: (ids) =>
              expertBanks(
                machine,
                ids.map((id) => linears[id]!),
                encoder,
                retired,
              ),
          },
        ),
      );
      await settled;
      if (retired.length > 0) machine.submit([encoder.finish()]);
      return made;
    } finally {
      for (const storage of retired) storage.release();
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

  /** Bytes of all its buffers that are alive. */
  allocated(): number {
    return this.#machine.counts.bytes;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return;
    for (const executable of [...this.#executables]) executable[Symbol.dispose]();
    for (const linear of [...this.#owned]) linear[Symbol.dispose]();
    this.#slots.clear();
    this.#disposed = true;
    this.#machine.close(this.#settings);
  }

  /** The linear as one of this backend's that fits its place. */
  #own(use: LinearUse, linear: QuantizedLinear): WebGpuLinear {
    checkLinearUse(use, linear, { own: linear instanceof WebGpuLinear && this.#owned.has(linear) });
    return linear as WebGpuLinear;
  }

  #check(): void {
    if (this.#disposed) throw disposedError(this.#home.owner);
    this.#machine.check();
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
