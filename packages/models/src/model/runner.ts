// A loaded program shared by several callers: what they ask is done one after another, since a program runs one step at a time.

import { elements, LowbitError, type SequenceId, type StepOptions, type StepOutputs, type StepSequence } from '@lowbit/core';
import type { LoadedProgram } from '@lowbit/program';
import { serial } from './serial.ts';
import { rowsWithin, type TextRows } from './sight.ts';

interface FeedOptions extends StepOptions {
  /** Rows wanted of each token range [from, to) of the whole input. */
  readonly wanted: readonly [from: number, to: number];
  /** Most tokens of one step. */
  readonly chunk: number;
  /** So many tokens the sequence has already; default 0. */
  readonly from?: number;
  /** Handed in with the first step. */
  readonly inputs?: StepSequence['inputs'] | undefined;
  /** Rows of images, in place of tokens. */
  readonly images?: TextRows | undefined;
}

/** Result of one chunk: the outputs of input positions [from, to) that were wanted (possibly none), after `done` tokens. */
export interface FedChunk {
  readonly from: number;
  readonly to: number;
  readonly done: number;
  readonly outputs: StepOutputs;
}

export class Runner {
  readonly #program: LoadedProgram;
  readonly #queue = serial();
  #disposed = false;

  constructor(program: LoadedProgram) {
    this.#program = program;
  }

  /** Runs `body` when nothing else is running. Rejects with ERR_DISPOSED once the model is disposed. */
  run<T>(body: (program: LoadedProgram) => T | Promise<T>): Promise<T> {
    return this.#queue(async () => body(this.program()));
  }

  /** The program itself, for what may be asked at any time. Throws ERR_DISPOSED. */
  program(): LoadedProgram {
    if (!this.#disposed) return this.#program;
    throw new LowbitError('ERR_DISPOSED', 'this model has been disposed', { hint: 'Load it again, or keep it open until its last use.' });
  }

  open(): Promise<SequenceId> {
    return this.run((program) => program.open());
  }

  /** Closes a sequence; nothing to do once everything is disposed. */
  async close(id: SequenceId): Promise<void> {
    await this.#queue(async () => {
      if (!this.#disposed) this.#program.close(id);
    });
  }

  step(batch: readonly StepSequence[], options: StepOptions = {}): Promise<StepOutputs> {
    return this.run((program) => {
      options.signal?.throwIfAborted();
      return program.step(batch, options);
    });
  }

  /** Steps through `ids` in chunks, so that activations stay bounded; the length of all of them counts as known from the start. */
  async *feed(id: SequenceId, ids: Uint32Array, options: FeedOptions): AsyncGenerator<FedChunk, void, undefined> {
    const { chunk, wanted: range, from: there = 0, inputs, images, ...step } = options;
    const [first, last] = range;
    for (let begin = there; begin < last; begin += chunk) {
      const end = Math.min(begin + chunk, last);
      const from = Math.min(Math.max(first, begin), end);
      const wanted = Uint32Array.from({ length: end - from }, (_, i) => from - begin + i);
      const given = begin === 0 && inputs ? { inputs } : {};
      const image = images && rowsWithin(images, begin, end);
      const seen = image ? { injections: { image } } : {};
      const outputs = await this.step([{ id, tokens: ids.subarray(begin, end), wanted, length: ids.length, ...given, ...seen }], step);
      yield { from, to: end, done: end, outputs };
    }
  }

  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true; // what waits in the queue is refused; the step that runs is awaited
    await this.#queue(() => this.#program[Symbol.asyncDispose]() as Promise<void>);
  }
}

/** The f32 values of an output. */
export function outputValues(outputs: StepOutputs, name: string): Float32Array {
  const tensor = outputs[name];
  if (tensor?.dtype !== 'f32') throw new LowbitError('ERR_BAD_ARGUMENT', `the program has no f32 output ${name}`, { details: { name } });
  return elements({ dtype: 'f32', data: tensor.data });
}
