// A compiled program: its sequences here, its numbers and their caches in native memory. A step runs off the thread of JavaScript.

import {
  type CompileOptions,
  checkShortened,
  type Demands,
  disposedError,
  type Executable,
  type HostTensor,
  injectedRows,
  inputRows,
  LowbitError,
  type Op,
  type OutputRequest,
  outputRequests,
  type Program,
  planStep,
  readDemands,
  type SequenceId,
  SequenceTable,
  type StepOptions,
  type StepOutputs,
  type StepPlan,
  type StepSequence,
} from '@lowbit/core';
import type { CpuBinding, NativeStep, ProgramHandle } from './binding.ts';
import type { CpuLinear } from './linear.ts';
import { nativeError } from './prepare.ts';

interface Sequence {
  length: number;
  remembers: boolean;
}

/** What an executable needs of the backend that made it. */
export interface ExecutableHome {
  readonly owner: string;
  readonly binding: CpuBinding;
  readonly planes: 2 | 3;
  release(executable: CpuExecutable): void;
}

export class CpuExecutable implements Executable {
  readonly #program: Program;
  readonly #home: ExecutableHome;
  readonly #handle: ProgramHandle;
  readonly #linears: readonly CpuLinear[];
  readonly #constantBytes: number;
  readonly #demands: Demands;
  readonly #inputs: readonly Extract<Op, { op: 'input' }>[];
  readonly #injections: readonly Extract<Op, { op: 'inject' }>[];
  /** Experts of a token: all routers of a program have the same. */
  readonly #topK: number;
  readonly #sequences: SequenceTable<Sequence>;
  #running = false;
  /** As it was before the step that is running. */
  #memory = { scratch: 0, cache: 0 };
  #disposed = false;

  /** `program` is valid; `handle` was compiled of it and of `linears`. */
  constructor(
    handle: ProgramHandle,
    program: Program,
    linears: readonly CpuLinear[],
    constantBytes: number,
    options: CompileOptions,
    home: ExecutableHome,
  ) {
    this.#handle = handle;
    this.#linears = linears;
    this.#program = program;
    this.#constantBytes = constantBytes;
    this.#demands = readDemands(program, options.contextLength);
    this.#inputs = program.ops.filter((op) => op.op === 'input');
    this.#injections = program.ops.filter((op) => op.op === 'inject');
    this.#topK = program.ops.find((op) => op.op === 'route')?.topK ?? 0;
    this.#sequences = new SequenceTable(options.maxSequences);
    this.#home = home;
  }

  memory(): { readonly scratch: number; readonly cache: number } {
    if (this.#disposed) return { scratch: 0, cache: 0 };
    // Not while the step's thread may be changing it.
    if (!this.#running) {
      const [scratch, cache] = this.#home.binding.programBytes(this.#handle);
      this.#memory = { scratch, cache };
    }
    return this.#memory;
  }

  /** All native bytes that it holds. */
  get bytes(): number {
    if (this.#disposed) return 0;
    const { scratch, cache } = this.memory();
    return scratch + cache + this.#constantBytes;
  }

  open(): SequenceId {
    this.#idle();
    return this.#sequences.add(() => ({ length: 0, remembers: false }));
  }

  fork(id: SequenceId, length = this.length(id)): SequenceId {
    this.#idle();
    const sequence = this.#sequences.get(id);
    checkShortened(id, sequence.length, length);
    return this.#sequences.add((copy) => {
      try {
        this.#home.binding.forkSequence(this.#handle, id, copy, length);
      } catch (error) {
        throw nativeError(error);
      }
      return { ...sequence, length };
    });
  }

  length(id: SequenceId): number {
    if (this.#disposed) throw disposedError(this.#owner);
    return this.#sequences.get(id).length;
  }

  truncate(id: SequenceId, length: number): void {
    this.#idle();
    const sequence = this.#sequences.get(id);
    checkShortened(id, sequence.length, length);
    sequence.length = length;
  }

  close(id: SequenceId): void {
    this.#idle();
    this.#sequences.remove(id);
    this.#home.binding.closeSequence(this.#handle, id);
  }

  async step(batch: readonly StepSequence[], options: StepOptions = {}): Promise<StepOutputs> {
    this.#idle();
    options.signal?.throwIfAborted();
    const requests = outputRequests(this.#program, options);
    const plan = planStep(batch, this.#sequences, this.#demands);
    this.memory();
    this.#running = true;
    try {
      await this.#home.binding.stepProgram(this.#handle, this.#native(plan));
      const outliers = this.#home.binding.takeOutliers(this.#handle);
      for (let i = 0; 2 * i < outliers.length; i++) {
        this.#linears[i]!.addOutliers({ products: outliers[2 * i]!, columns: outliers[2 * i + 1]! });
      }
      if (this.#disposed) throw disposedError(this.#owner);
      options.signal?.throwIfAborted(); // lengths are as before: what was appended is forgotten
      for (const { sequence, tokens, encoder } of plan.shares) {
        sequence.length += tokens.count;
        sequence.remembers ||= encoder.count > 0;
      }
      return this.#collect(requests, plan);
    } catch (error) {
      throw nativeError(error);
    } finally {
      this.#running = false;
      if (this.#disposed) this.#home.binding.freeProgram(this.#handle);
      else this.#home.binding.endStep(this.#handle);
    }
  }

  /** A step that is running ends first; its promise rejects with ERR_DISPOSED. */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    if (!this.#running) this.#home.binding.freeProgram(this.#handle);
    this.#home.release(this);
  }

  get #owner(): string {
    return `an executable of ${this.#home.owner}`;
  }

  #idle(): void {
    if (this.#disposed) throw disposedError(this.#owner);
    if (!this.#running) return;
    throw new LowbitError('ERR_BAD_ARGUMENT', 'a step is running', { hint: 'Await it first: an executable does one step at a time.' });
  }

  #native(plan: StepPlan<Sequence>): NativeStep {
    const { shares, rows } = plan;
    const tokens = new Uint32Array(rows.tokens);
    for (const { given, tokens: span } of shares) tokens.set(given.tokens, span.from);
    const routed = this.#topK * rows.tokens;
    return {
      tokens,
      rows: [rows.tokens, rows.outputs, routed, rows.encoder],
      planes: this.#home.planes,
      shares: shares.map((share) => ({
        id: share.given.id,
        start: share.sequence.length,
        length: share.length,
        remembers: share.sequence.remembers,
        from: [share.tokens.from, share.outputs.from, 0, share.encoder.from],
        count: [share.tokens.count, share.outputs.count, 0, share.encoder.count],
        wanted: Uint32Array.from(share.wanted),
      })),
      inputs: this.#inputs.map(({ name, out }) => ({ out, values: inputRows(name, this.#program.tensors[out]!, plan) })),
      injections: this.#injections.map(({ name, out }) => ({ out, ...injectedRows(name, shares) })),
    };
  }

  #collect(requests: readonly OutputRequest[], { rows }: StepPlan<Sequence>): StepOutputs {
    const outputs: Record<string, HostTensor> = {};
    for (const { name, tensor, width, dtype, largest } of requests) {
      const { rows: domain } = this.#program.tensors[tensor]!;
      const count = domain === 'routed' ? rows.tokens * this.#topK : rows[domain];
      const add = (key: string, type: 'f32' | 'i32', columns: number): Uint8Array => {
        const data = new Uint8Array(count * columns * 4);
        outputs[key] = { dtype: type, shape: [count, columns], data };
        return data;
      };
      if (largest === 0) this.#home.binding.readTensor(this.#handle, tensor, add(name, dtype, width));
      else this.#home.binding.readLargest(this.#handle, tensor, largest, add(name, 'f32', largest), add(`${name}.ids`, 'i32', largest));
    }
    return outputs;
  }
}
