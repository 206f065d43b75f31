// A compiled program: its sequences here, its launches and their memory on the device. A step runs off the thread of JavaScript.

import {
  type CompileOptions,
  checkShortened,
  type Demands,
  disposedError,
  type Executable,
  LowbitError,
  outputRequests,
  type Program,
  planStep,
  readDemands,
  type SequenceId,
  type SequenceState,
  SequenceTable,
  type StepOptions,
  type StepOutputs,
  type StepPlan,
  type StepSequence,
} from '@lowbit/core';
import type { BufferHandle, CudaBinding, DeviceHandle, PlanHandle, RowCounts, StoredFloat } from './binding.ts';
import { Caches, type SequenceCaches } from './caches.ts';
import { deviceError, native } from './errors.ts';
import type { NamedRows } from './lower.ts';
import { Readback } from './readback.ts';
import { stepBlock } from './step-block.ts';

/** Rows of a grid. */
const MOST_ROWS = 65535;

interface Sequence {
  length: number;
  remembers: boolean;
  readonly caches: SequenceCaches;
}

/** What an executable needs of the backend that made it. */
export interface ExecutableHome {
  readonly owner: string;
  readonly binding: CudaBinding;
  readonly device: DeviceHandle;
  readonly kvDtype: StoredFloat;
  release(executable: CudaExecutable): void;
}

/** A plan, and what it was made of. */
export interface CompiledPlan {
  readonly handle: PlanHandle;
  readonly named: readonly NamedRows[];
  readonly constants: readonly BufferHandle[];
  readonly constantBytes: number;
}

/** How many experts a row takes: all routers of a program have the same. */
export function expertsOfRow({ ops }: Program): number {
  const route = ops.find(({ op }) => op === 'route');
  return route?.op === 'route' ? route.topK : 0;
}

/** Throws ERR_LIMIT. */
export function rowsOf({ rows }: StepPlan<SequenceState>, topK: number): RowCounts {
  const routed = rows.tokens * topK;
  const most = Math.max(rows.tokens, routed, rows.encoder);
  if (most > MOST_ROWS) {
    throw new LowbitError('ERR_LIMIT', `a step of ${most} rows, the limit is ${MOST_ROWS}`, {
      hint: 'Feed long prompts in several steps.',
      details: { rows: most, limit: MOST_ROWS },
    });
  }
  return [rows.tokens, rows.outputs, routed, rows.encoder, 1];
}

export class CudaExecutable implements Executable {
  readonly #program: Program;
  readonly #plan: CompiledPlan;
  readonly #home: ExecutableHome;
  readonly #demands: Demands;
  readonly #limit: number;
  readonly #caches: Caches;
  readonly #sequences: SequenceTable<Sequence>;
  readonly #topK: number;
  #running = false;
  /** As it was before the step that is running. */
  #scratch = 0;
  #disposed = false;

  /** `program` is valid, and `plan` was made of it. */
  constructor(program: Program, plan: CompiledPlan, options: CompileOptions, home: ExecutableHome) {
    this.#program = program;
    this.#plan = plan;
    this.#home = home;
    this.#limit = options.contextLength;
    this.#demands = readDemands(program, options.contextLength);
    this.#sequences = new SequenceTable(options.maxSequences);
    this.#caches = new Caches(home.binding, home.device, program.caches, home.kvDtype);
    this.#topK = expertsOfRow(program);
  }

  memory(): { readonly scratch: number; readonly cache: number } {
    if (this.#disposed) return { scratch: 0, cache: 0 };
    // Not while the step's thread may be changing it.
    if (!this.#running) this.#scratch = this.#home.binding.planFacts(this.#plan.handle).scratch;
    return { scratch: this.#scratch, cache: this.#caches.bytes };
  }

  /** All device bytes that it holds. */
  get bytes(): number {
    if (this.#disposed) return 0;
    const { scratch, cache } = this.memory();
    return scratch + cache + this.#plan.constantBytes;
  }

  /** Steps that were recorded as a graph once and played again. */
  get replays(): number {
    this.#idle();
    return this.#home.binding.planFacts(this.#plan.handle).replays;
  }

  open(): SequenceId {
    this.#idle();
    return this.#sequences.add(() => ({ length: 0, remembers: false, caches: this.#caches.open() }));
  }

  fork(id: SequenceId, length = this.length(id)): SequenceId {
    this.#idle();
    const { length: whole, remembers, caches } = this.#sequences.get(id);
    checkShortened(id, whole, length);
    return native(() => this.#sequences.add(() => ({ length, remembers, caches: this.#caches.fork(caches, length) })));
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
    this.#caches.close(this.#sequences.remove(id).caches);
  }

  async step(batch: readonly StepSequence[], options: StepOptions = {}): Promise<StepOutputs> {
    this.#idle();
    options.signal?.throwIfAborted();
    const requests = outputRequests(this.#program, options);
    const plan = planStep(batch, this.#sequences, this.#demands);
    const rows = rowsOf(plan, this.#topK);
    const { binding } = this.#home;
    this.memory();
    this.#running = true;
    try {
      const block = this.#block(plan);
      const readback = new Readback(this.#program, requests, rows);
      await binding.runPlan(this.#plan.handle, rows, block, readback.reads);
      if (this.#disposed) throw disposedError(this.#owner);
      options.signal?.throwIfAborted(); // lengths are as before: what was appended is forgotten
      for (const { sequence, tokens, encoder } of plan.shares) {
        sequence.length += tokens.count;
        sequence.remembers ||= encoder.count > 0;
        this.#caches.remember(sequence.caches, encoder.count);
      }
      return readback.outputs();
    } catch (error) {
      throw deviceError(error);
    } finally {
      this.#running = false;
      if (this.#disposed) this.#free();
      else binding.trimPlan(this.#plan.handle);
    }
  }

  /** A step that is running ends first; its promise rejects with ERR_DISPOSED. */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    if (!this.#running) this.#free();
    this.#home.release(this);
  }

  #free(): void {
    const { binding } = this.#home;
    binding.freePlan(this.#plan.handle);
    for (const buffer of this.#plan.constants) binding.freeBuffer(buffer);
    for (const { caches } of this.#sequences.clear()) this.#caches.close(caches);
  }

  get #owner(): string {
    return `an executable of ${this.#home.owner}`;
  }

  #idle(): void {
    if (this.#disposed) throw disposedError(this.#owner);
    if (!this.#running) return;
    throw new LowbitError('ERR_BAD_ARGUMENT', 'a step is running', { hint: 'Await it first: an executable does one step at a time.' });
  }

  #block(plan: StepPlan<Sequence>): Uint8Array {
    const caches = plan.shares.map(({ sequence, tokens, encoder }) =>
      this.#caches.extend(sequence.caches, { length: sequence.length, tokens: tokens.count, encoder: encoder.count, limit: this.#limit }),
    );
    return stepBlock({ plan, ropes: this.#program.ropes, named: this.#plan.named, caches });
  }
}
