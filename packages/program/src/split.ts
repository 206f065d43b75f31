// A loaded program: the pieces of a cut, each on its backend, run as one.

import type { HostTensor, Program } from '@lowbit/core';
import {
  type Backend,
  DEFAULT_MAX_SEQUENCES,
  disposeAll,
  disposedError,
  type Executable,
  LowbitError,
  type OutputRequest,
  outputRequests,
  type QuantizedLinear,
  type SequenceId,
  SequenceTable,
  type StepOptions,
  type StepOutputs,
  type StepSequence,
} from '@lowbit/core';
import type { ProgramPiece } from './cut.ts';
import type { LoadedProgram, LoadOptions, Placed } from './load.ts';
import { checkNames, type PieceRun, pieceBatch, rowsOf, type StepNames, sortOutputs, stepNames } from './pieces.ts';

/** A piece and its backend. */
export interface Place {
  readonly piece: ProgramPiece;
  readonly backend: Backend;
}

export class SplitProgram implements LoadedProgram {
  readonly program: Program;
  readonly #places: readonly Place[];
  readonly #prepared: Map<Backend, QuantizedLinear[]>;
  readonly #options: LoadOptions;
  readonly #names: StepNames;
  /** Ids in the pieces. */
  readonly #sequences: SequenceTable<SequenceId[]>;
  #runs: readonly PieceRun[] = [];
  #busy = false;
  #disposed = false;

  private constructor(program: Program, places: readonly Place[], prepared: Map<Backend, QuantizedLinear[]>, options: LoadOptions) {
    this.program = program;
    this.#places = places;
    this.#prepared = prepared;
    this.#options = options;
    this.#sequences = new SequenceTable(options.maxSequences);
    this.#names = stepNames(places.map(({ piece }) => piece));
  }

  static async compile(
    program: Program,
    places: readonly Place[],
    prepared: Map<Backend, QuantizedLinear[]>,
    options: LoadOptions,
  ): Promise<SplitProgram> {
    const loaded = new SplitProgram(program, places, prepared, options);
    loaded.#runs = await loaded.#compile(prepared, options.signal);
    return loaded;
  }

  get backends(): readonly string[] {
    return this.#places.map(({ backend }) => backend.name);
  }

  get placement(): readonly Placed[] {
    return this.#places.map(({ piece, backend }) => ({
      backend: backend.name,
      linears: piece.program.linears.map(({ path }) => path),
      bytes: piece.linears.reduce((sum, index) => sum + this.#prepared.get(backend)![index]!.bytes, 0),
    }));
  }

  get linears(): readonly QuantizedLinear[] {
    return this.program.linears.map((_, index) => [...this.#prepared.values()].find((linears) => linears[index])![index]!);
  }

  backendOf(index: number): string {
    return this.#placeOf(index).backend.name;
  }

  open(): SequenceId {
    return this.#add((executable) => executable.open());
  }

  fork(id: SequenceId, length?: number): SequenceId {
    const ids = this.#ids(id);
    return this.#add((executable, i) => executable.fork(ids[i]!, length));
  }

  length(id: SequenceId): number {
    this.#check();
    return this.#runs[0]!.executable.length(this.#sequences.get(id)[0]!);
  }

  truncate(id: SequenceId, length: number): void {
    for (const [i, own] of this.#ids(id).entries()) this.#runs[i]!.executable.truncate(own, length);
  }

  close(id: SequenceId): void {
    this.#idle();
    for (const [i, own] of this.#sequences.remove(id).entries()) this.#runs[i]!.executable.close(own);
  }

  async step(batch: readonly StepSequence[], options: StepOptions = {}): Promise<StepOutputs> {
    this.#idle();
    const ids = batch.map(({ id }) => this.#sequences.get(id));
    checkNames(batch, this.#names);
    const wanted = outputRequests(this.program, options);
    this.#busy = true;
    try {
      if (this.#runs.length === 1) {
        return await this.#runs[0]!.executable.step(
          batch.map((given, i) => ({ ...given, id: ids[i]![0]! })),
          options,
        );
      }
      return await this.#stepPieces(batch, ids, wanted, options.signal);
    } finally {
      this.#busy = false;
    }
  }

  memory(): { readonly weights: number; readonly scratch: number; readonly cache: number } {
    this.#check();
    const parts = this.#runs.map(({ executable }) => executable.memory());
    const weights = [...this.#prepared.values()].flatMap((linears) => Object.values(linears)).reduce((sum, { bytes }) => sum + bytes, 0);
    return {
      weights,
      scratch: parts.reduce((sum, { scratch }) => sum + scratch, 0),
      cache: parts.reduce((sum, { cache }) => sum + cache, 0),
    };
  }

  async replace(index: number, linear: QuantizedLinear): Promise<QuantizedLinear> {
    this.#idle();
    const found = this.#placeOf(index);
    const use = this.program.linears[index]!;
    if (this.#sequences.size > 0) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `cannot replace ${use.path} while ${this.#sequences.size} sequences are open`, {
        hint: 'Close them first: what they cached was computed with the old weight.',
      });
    }
    const changed = new Map(
      [...this.#prepared].map(([backend, linears]) => [backend, backend === found.backend ? linears.with(index, linear) : linears]),
    );
    this.#busy = true;
    try {
      const runs = await this.#compile(changed);
      for (const { executable } of this.#runs) executable[Symbol.dispose]();
      this.#runs = runs;
    } finally {
      this.#busy = false;
    }
    const linears = this.#prepared.get(found.backend)!;
    const old = linears[index]!;
    linears[index] = linear;
    return old;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    const linears = [...this.#prepared.values()].flatMap((prepared) => Object.values(prepared));
    const executables = this.#runs.map(({ executable }) => executable);
    await disposeAll([...linears, ...executables].map((owned) => () => owned[Symbol.dispose]()));
  }

  #placeOf(index: number): Place {
    const found = this.#places.find(
      ({ piece }) => piece.linears.includes(index) && piece.program.linears[piece.linears.indexOf(index)]!.use !== 'embedding',
    );
    if (found) return found;
    throw new LowbitError('ERR_BAD_ARGUMENT', `there is no linear ${index}`, { details: { index } });
  }

  async #compile(prepared: ReadonlyMap<Backend, readonly QuantizedLinear[]>, signal?: AbortSignal): Promise<readonly PieceRun[]> {
    const { contextLength, maxSequences = DEFAULT_MAX_SEQUENCES } = this.#options;
    // Pieces keep a copy of a sequence that gets its encoder rows until all have succeeded: see `mark`.
    const copies = this.#places.length > 1 && [...this.#names.inputs.values()].includes('encoder');
    const room = copies ? 2 * maxSequences : maxSequences;
    const runs: PieceRun[] = [];
    try {
      for (const { piece, backend } of this.#places) {
        signal?.throwIfAborted();
        const linears = piece.linears.map((index) => prepared.get(backend)![index]!);
        runs.push({ piece, executable: await backend.compile(piece.program, linears, { contextLength, maxSequences: room, signal }) });
      }
      return runs;
    } catch (error) {
      for (const { executable } of runs) executable[Symbol.dispose]();
      throw error;
    }
  }

  /** Runs the pieces in order. If one fails, those before it go back. */
  async #stepPieces(
    batch: readonly StepSequence[],
    ids: readonly SequenceId[][],
    wanted: readonly OutputRequest[],
    signal: AbortSignal | undefined,
  ): Promise<StepOutputs> {
    const results: Record<string, HostTensor> = {};
    const carried = new Map<string, HostTensor>();
    const marks: Mark[] = [];
    try {
      for (const [at, { piece, executable }] of this.#runs.entries()) {
        const steps = pieceBatch(
          batch,
          ids.map((list) => list[at]!),
          piece,
          carried,
          this.#names,
        );
        const own = batch.map((given, i) => mark(executable, ids[i]!, at, rowsOf(given, this.#names).encoder > 0));
        const asked = wanted.filter(({ name }) => Object.hasOwn(piece.program.outputs, name));
        const read = [...new Set([...asked.map(({ name }) => name), ...piece.gives])];
        const largest = Object.fromEntries(
          asked.filter((request) => request.largest > 0).map((request) => [request.name, request.largest]),
        );
        const outputs = await executable.step(steps, { signal, outputs: read, largest }).catch((error: unknown) => {
          if (!this.#disposed) for (const { keep } of own) keep(); // a step that rejects changed nothing
          throw error;
        });
        marks.push(...own);
        sortOutputs(outputs, piece, carried, results);
      }
    } catch (error) {
      if (!this.#disposed) for (const { back } of marks) back();
      throw error;
    }
    for (const { keep } of marks) keep();
    return results;
  }

  #add(make: (executable: Executable, at: number) => SequenceId): SequenceId {
    this.#idle();
    return this.#sequences.add(() => {
      const ids: SequenceId[] = [];
      try {
        for (const [at, { executable }] of this.#runs.entries()) ids.push(make(executable, at));
      } catch (error) {
        for (const [at, id] of ids.entries()) this.#runs[at]!.executable.close(id);
        throw error;
      }
      return ids;
    });
  }

  /** The sequence's ids in the pieces, if it may be changed now. */
  #ids(id: SequenceId): SequenceId[] {
    this.#idle();
    return this.#sequences.get(id);
  }

  #idle(): void {
    this.#check();
    if (this.#busy)
      throw new LowbitError('ERR_BAD_ARGUMENT', 'a step is running', { hint: 'Await it first: a program does one step at a time.' });
  }

  #check(): void {
    if (this.#disposed) throw disposedError('the loaded program');
  }
}

/** A place in a sequence to go back to, or to go on from. */
interface Mark {
  back(): void;
  keep(): void;
}

/** Remembers sequence ids[at] as it is: by its length, or by a copy where the step hands in encoder rows, which truncating would keep. */
function mark(executable: Executable, ids: SequenceId[], at: number, remembers: boolean): Mark {
  const id = ids[at]!;
  if (!remembers) {
    const length = executable.length(id);
    return { back: () => executable.truncate(id, length), keep: () => {} };
  }
  const copy = executable.fork(id);
  return {
    keep: () => executable.close(copy),
    back: () => {
      executable.close(id);
      ids[at] = copy;
    },
  };
}
