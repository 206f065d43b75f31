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
import type { Counts, Machine } from './device.ts';
import { WebGpuExecutable } from './executable.ts';
import { ExpertMoves } from './experts.ts';
import { pieceBytes, piecesOf, planLayout, type StoredFloat } from './layout.ts';
import { type LinearHome, WebGpuLinear } from './linear.ts';
import { lowerProgram } from './lower.ts';
import { measureProgram } from './measure.ts';
import { deviceMemory, type TensorMemory } from './memory.ts';
import { holdWeight } from './prepare.ts';
import { gpuRoutines } from './routines/index.ts';

/** What `webgpu()` decided. */
export interface WebGpuSettings {
  readonly name: string;
  readonly kvDtype: StoredFloat;
  readonly codecs: readonly FormatCodec[];
  readonly features: readonly string[];
}

export class WebGpuBackend implements Backend {
  readonly spec = 1;
  readonly name: string;
  readonly kvDtype: StoredFloat;
  readonly ops = OP_NAMES;
  readonly routines: ReadonlyMap<string, Routine>;
  readonly #machine: Machine;
  readonly #settings: WebGpuSettings;
  readonly #home: LinearHome;
  readonly #holdings: Holdings<WebGpuLinear, WebGpuExecutable, TensorMemory>;

  /** Takes over the machine. */
  constructor(machine: Machine, settings: WebGpuSettings) {
    this.name = settings.name;
    this.kvDtype = settings.kvDtype;
    this.#machine = machine;
    this.#settings = settings;
    this.#holdings = new Holdings(this.name, deviceMemory(machine));
    const { owner, release } = this.#holdings;
    this.routines = gpuRoutines({ machine, check: () => this.#check() });
    this.#home = { owner, machine, release, floats: (tensor) => this.#holdings.floats(tensor) };
  }

  get device(): Backend['device'] {
    const { label, features } = this.#machine;
    // WebGPU tells nobody how much memory there is.
    return { label, memory: 0, features: [...this.#settings.features, ...features] };
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
    checkLinearBias(bias, shape);
    const held = await holdWeight(this.#machine, weight, layout, { bias, codecs, signal });
    const bytes = held.pieces.reduce((sum, { piece }) => sum + pieceBytes(piece, held), 0);
    return this.#holdings.addLinear(new WebGpuLinear(held, { format, shape, bytes, bias: bias !== undefined }, this.#home));
  }

  async compile(program: Program, linears: readonly QuantizedLinear[], options: CompileOptions): Promise<Executable> {
    this.#check();
    const own = this.#holdings.linearsOf(program, linears, options);
    const machine = this.#machine;
    const { kvDtype } = this.#settings;
    return machine.run(async () => {
      using moves = new ExpertMoves(machine, own);
      for (const op of program.ops) {
        const gathering = op.op === 'expertLinear' ? moves.gather(op.linears) : undefined;
        if (gathering === undefined) continue;
        await gathering.settled;
        gathering.commit();
        // Before the next ones: until the copy is done the old places are not free.
        await machine.device.queue.onSubmittedWorkDone();
        options.signal?.throwIfAborted();
        this.#check();
      }
      const lowered = lowerProgram(program, moves.weights, { kvDtype, banks: (ids) => moves.banks(ids) });
      const { made: executable, settled: ready } = machine.claim('a program', () => {
        const { owner, release } = this.#holdings;
        return new WebGpuExecutable(program, lowered, options, { owner, machine, kvDtype, release });
      });
      this.#holdings.addExecutable(executable);
      try {
        await ready;
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

  /** Takes it all on a machine that holds nothing. `refused` names the first buffer that is larger than the GPU makes or binds. */
  measure(program: Program, linears: readonly LinearRequest[], size: StepSize): StepBytes {
    this.#check();
    validateProgram(program);
    const { kvDtype, codecs } = this.#settings;
    const layoutOf = ({ format, shape }: LinearRequest) => planLayout(format, shape, codecs, this.#machine.limits);
    return measureProgram(program, linears, size, { machine: this.#machine, kvDtype, layoutOf });
  }

  /** What the device could not do shows when the tensor is read. */
  alloc(spec: TensorSpec): DeviceTensor {
    this.#check();
    return this.#holdings.alloc(spec);
  }

  free(tensor: DeviceTensor): void {
    this.#check();
    this.#holdings.free(tensor);
  }

  write(tensor: DeviceTensor, data: Uint8Array): void {
    this.#check();
    this.#holdings.write(tensor, data);
  }

  async read(tensor: DeviceTensor): Promise<HostTensor> {
    this.#check();
    return this.#holdings.read(tensor);
  }

  /** Bytes of all its buffers that are alive. */
  allocated(): number {
    return this.#machine.counts.bytes;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#holdings.dispose()) this.#machine.close(this.#holdings.owner);
  }

  #check(): void {
    this.#holdings.check();
    this.#machine.check();
  }
}
