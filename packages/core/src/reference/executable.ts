// A compiled program on the reference backend: its sequences, and one step from batch to outputs.

import { breather } from '../breath.ts';
import { disposedError } from '../disposed.ts';
import { toFloat32 } from '../dtype.ts';
import { opConstants, opInputs, opResults } from '../program/infer.ts';
import { outputRequests, outputsOf } from '../program/outputs.ts';
import type { CompileOptions, Executable, SequenceId, StepOptions, StepOutputs, StepSequence } from '../spec/backend.ts';
import { LowbitError } from '../spec/errors.ts';
import type { Program } from '../spec/program.ts';
import { type Demands, planStep, readDemands } from './batch.ts';
import { runOp, type StepState } from './interpreter.ts';
import type { ReferenceLinear } from './linear.ts';
import { Rotations } from './rotation.ts';
import { Sequences } from './sequences.ts';

export class ReferenceExecutable implements Executable {
  readonly #owner: string;
  readonly #program: Program;
  readonly #linears: readonly ReferenceLinear[];
  readonly #constants: readonly (Float32Array | undefined)[];
  readonly #constantBytes: number;
  readonly #demands: Demands;
  readonly #sequences: Sequences;
  readonly #lastReader: readonly number[];
  readonly #onDispose: (executable: ReferenceExecutable) => void;
  #running = false;
  readonly #breathe = breather();
  #disposed = false;
  #scratch = 0;

  /** `program` is valid and `linears` fit it. */
  constructor(
    program: Program,
    linears: readonly ReferenceLinear[],
    options: CompileOptions,
    home: { readonly owner: string; release(executable: ReferenceExecutable): void },
  ) {
    this.#owner = `an executable of ${home.owner}`;
    this.#onDispose = home.release;
    this.#program = program;
    this.#linears = linears;
    const used = new Set(program.ops.flatMap(opConstants));
    this.#constants = program.constants.map((constant, id) => (used.has(id) ? toFloat32(constant).slice() : undefined));
    this.#constantBytes = this.#constants.reduce((sum, constant) => sum + (constant?.byteLength ?? 0), 0);
    this.#demands = readDemands(program, options.contextLength);
    this.#sequences = new Sequences(program.caches, options.maxSequences);
    this.#lastReader = lastReaders(program);
  }

  memory(): { readonly scratch: number; readonly cache: number } {
    return { scratch: this.#scratch, cache: this.#sequences.bytes };
  }

  /** All bytes that it holds. */
  get bytes(): number {
    return this.#disposed ? 0 : this.#constantBytes + this.#scratch + this.#sequences.bytes;
  }

  open(): SequenceId {
    return this.#idle().open();
  }

  fork(id: SequenceId, length?: number): SequenceId {
    return this.#idle().fork(id, length);
  }

  length(id: SequenceId): number {
    if (this.#disposed) throw disposedError(this.#owner);
    return this.#sequences.get(id).length;
  }

  truncate(id: SequenceId, length: number): void {
    this.#idle().truncate(id, length);
  }

  close(id: SequenceId): void {
    this.#idle().close(id);
  }

  async step(batch: readonly StepSequence[], options: StepOptions = {}): Promise<StepOutputs> {
    const sequences = this.#idle();
    options.signal?.throwIfAborted();
    const requests = outputRequests(this.#program, options);
    const plan = planStep(batch, sequences, this.#demands);
    const saved = plan.shares.map(({ sequence }) => ({ sequence, before: sequences.snapshot(sequence) }));
    const state: StepState = {
      program: this.#program,
      plan,
      linears: this.#linears,
      constants: this.#constants,
      sequences,
      contextLength: this.#demands.contextLength,
      values: [],
      rotations: new Rotations(),
    };
    this.#running = true;
    try {
      await this.#run(state, options.signal);
      for (const { sequence, tokens, encoder } of plan.shares) {
        sequence.length += tokens.count;
        sequence.remembers ||= encoder.count > 0;
      }
      return outputsOf(requests, (tensor) => state.values[tensor]!.slice()); // two names may share a tensor
    } catch (error) {
      if (!this.#disposed) for (const { sequence, before } of saved) sequences.restore(sequence, before);
      throw error;
    } finally {
      this.#running = false;
      this.#scratch = 0;
    }
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#sequences.closeAll();
    this.#onDispose(this);
  }

  /** Runs all operations; a tensor is dropped after its last reader. Short steps in a row let the event loop run as often as one long step does. */
  async #run(state: StepState, signal: AbortSignal | undefined): Promise<void> {
    for (const [index, op] of this.#program.ops.entries()) {
      const breath = this.#breathe();
      if (breath) {
        await breath;
        if (this.#disposed) throw disposedError(this.#owner);
        signal?.throwIfAborted();
      }
      const results = runOp(op, state);
      for (const [i, id] of opResults(op).entries()) {
        state.values[id] = results[i]!;
        this.#scratch += results[i]!.byteLength;
      }
      for (const id of new Set([...opInputs(op), ...opResults(op)])) {
        if (this.#lastReader[id] !== index) continue;
        this.#scratch -= state.values[id]!.byteLength;
        state.values[id] = undefined;
      }
    }
  }

  /** The sequences, if they may be changed now. */
  #idle(): Sequences {
    if (this.#disposed) throw disposedError(this.#owner);
    if (this.#running) {
      throw new LowbitError('ERR_BAD_ARGUMENT', 'a step is running', { hint: 'Await it first: an executable does one step at a time.' });
    }
    return this.#sequences;
  }
}

/** Index of the operation after which a tensor is not needed; -1 for outputs, which stay. */
function lastReaders(program: Program): readonly number[] {
  const last: number[] = [];
  for (const [index, op] of program.ops.entries()) for (const id of [...opInputs(op), ...opResults(op)]) last[id] = index;
  for (const id of Object.values(program.outputs)) last[id] = -1;
  return last;
}
