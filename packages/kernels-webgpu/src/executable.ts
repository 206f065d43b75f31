// A compiled program: its sequences here, its launches and their memory on the device. A step is one block of words, one submit, and one copy back.

import {
  type CompileOptions,
  checkShortened,
  type Demands,
  disposedError,
  type Executable,
  elements,
  type HostTensor,
  LowbitError,
  type OutputRequest,
  outputRequests,
  outputsOf,
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
import { Caches, type Extension, type SequenceCaches } from './caches.ts';
import type { Machine } from './device.ts';
import type { GpuBuffer, GpuOpaque } from './gpu.ts';
import { choosesHere, LARGEST_KERNELS, LargestChooser, type LargestRequest, readPairs } from './largest.ts';
import { DOMAIN } from './launches.ts';
import type { StoredFloat } from './layout.ts';
import type { LoweredProgram } from './lower.ts';
import { LaunchPlan, MOST_ROWS, shareNumbers } from './plan.ts';
import { stepBlock } from './step-block.ts';
import { type Read, StepMemory } from './step-memory.ts';

interface Sequence {
  length: number;
  remembers: boolean;
  readonly caches: SequenceCaches;
}

/** What an executable needs of the backend that made it. */
export interface ExecutableHome {
  readonly owner: string;
  readonly machine: Machine;
  readonly kvDtype: StoredFloat;
  release(executable: WebGpuExecutable): void;
}

/** Microseconds that a step's commands took to be written, and what was submitted, for tests and benchmarks. */
export interface StepCosts {
  encode: number;
  dispatches: number;
  submits: number;
  read: number;
}

export class WebGpuExecutable implements Executable {
  /** Of the last step. */
  readonly costs: StepCosts = { encode: 0, dispatches: 0, submits: 0, read: 0 };
  readonly #program: Program;
  readonly #lowered: LoweredProgram;
  readonly #home: ExecutableHome;
  readonly #demands: Demands;
  readonly #limit: number;
  readonly #plan: LaunchPlan;
  readonly #caches: Caches;
  readonly #numbers: GpuBuffer;
  readonly #constants: GpuBuffer;
  readonly #unbound: GpuBuffer;
  readonly #unboundGroup: GpuOpaque;
  readonly #memory: StepMemory;
  readonly #sequences: SequenceTable<Sequence>;
  readonly #topK: number;
  #running = false;
  #disposed = false;

  /** `program` is valid, and `lowered` was made of it. */
  constructor(program: Program, lowered: LoweredProgram, options: CompileOptions, home: ExecutableHome) {
    const { machine } = home;
    this.#program = program;
    this.#lowered = lowered;
    this.#home = home;
    this.#limit = options.contextLength;
    this.#demands = readDemands(program, options.contextLength);
    this.#sequences = new SequenceTable(options.maxSequences);
    this.#numbers = shareNumbers(machine, this.#sequences.most);
    this.#caches = new Caches(machine, program.caches, home.kvDtype, this.#numbers);
    this.#constants = machine.storage(lowered.constants.byteLength, 'constants of a program');
    machine.write(this.#constants, 0, new Uint8Array(lowered.constants.buffer));
    this.#memory = new StepMemory(machine, this.#constants, this.#numbers);
    this.#unbound = machine.storage(16, 'no cache');
    this.#unboundGroup = this.#caches.bind(this.#unbound);
    this.#plan = new LaunchPlan(machine, lowered.tensors, lowered.launches, new Set(Object.values(program.outputs)));
    // All routers of a program have the same.
    const route = program.ops.find(({ op }) => op === 'route');
    this.#topK = route?.op === 'route' ? route.topK : 0;
  }

  /** Makes the pipelines of steps of one short sequence with so many rows, by domain. A step makes those that it lacks, too. */
  async warm(rows: readonly number[]): Promise<void> {
    const missing = this.#plan.warm({ rows, shares: [rows], keys: () => 1 });
    if (missing) await missing;
  }

  memory(): { readonly scratch: number; readonly cache: number } {
    if (this.#disposed) return { scratch: 0, cache: 0 };
    return { scratch: this.#memory.bytes, cache: this.#caches.bytes };
  }

  /** All device bytes that it holds. */
  get bytes(): number {
    const { scratch, cache } = this.memory();
    return this.#disposed ? 0 : scratch + cache + this.#numbers.size + this.#constants.size + this.#unbound.size;
  }

  open(): SequenceId {
    this.#idle();
    return this.#sequences.add(() => ({ length: 0, remembers: false, caches: this.#caches.open() }));
  }

  fork(id: SequenceId, length = this.length(id)): SequenceId {
    this.#idle();
    const { length: whole, remembers, caches } = this.#sequences.get(id);
    checkShortened(id, whole, length);
    return this.#sequences.add(() => ({ length, remembers, caches: this.#caches.fork(caches, length) }));
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
    const rows = this.#rows(plan);
    this.#running = true;
    try {
      const outputs = await this.#home.machine.run(() => this.#run(plan, rows, requests));
      if (this.#disposed) throw disposedError(this.#owner);
      options.signal?.throwIfAborted(); // lengths are as before: what was appended is forgotten
      this.#advance(plan);
      return outputs;
    } finally {
      this.#running = false;
      if (this.#disposed) this.#free();
    }
  }

  /** A step that is running ends first; its promise rejects with ERR_DISPOSED. */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    if (!this.#running) this.#free();
    this.#home.release(this);
  }

  async #run(plan: StepPlan<Sequence>, rows: readonly number[], requests: readonly OutputRequest[]): Promise<StepOutputs> {
    const { machine } = this.#home;
    const { bases, numbers } = this.#plan.bases(rows);
    const reads = this.#reads(requests, rows);
    if (reads.some(({ chosen }) => chosen)) await machine.warm(LARGEST_KERNELS);
    const back = reads.reduce((sum, { bytes }) => sum + bytes, 0);
    const growth = this.#extend(plan);
    const shares = plan.shares.map(({ tokens, outputs, encoder }) => [tokens.count, outputs.count, 0, encoder.count]);
    const keys = (share: number, cache: number): number => growth.views[share]![cache]!.rows;
    try {
      const block = stepBlock({ plan, shape: this.#lowered.shape, rows, bases, caches: growth.views });
      await this.#plan.warm({ rows, shares, keys });
      await growth.settled;
      const room = this.#memory.make({ arena: 4 * numbers, step: block.byteLength, staging: back }, reads);
      if (room) await room.settled.then(room.take, room.giveBack);
      machine.write(this.#memory.step!, 0, block);
    } catch (error) {
      growth.cancel();
      throw error;
    }
    if (this.#disposed) {
      growth.cancel();
      throw disposedError(this.#owner);
    }
    const before = { ...machine.counts };
    const began = performance.now();
    const { made: retired, settled } = machine.claim('a step', () => {
      const encoder = machine.device.createCommandEncoder();
      const replaced = growth.commit(encoder);
      const pass = encoder.beginComputePass();
      this.#plan.encode(pass, {
        group: this.#memory.group!,
        rows,
        shares,
        keys,
        cache: (share, cache) =>
          cache === undefined ? this.#unboundGroup : this.#caches.group(plan.shares[share]!.sequence.caches, cache),
      });
      pass.end();
      for (const { request, at, bytes, chosen } of reads) {
        if (bytes === 0) continue;
        if (chosen) this.#memory.chooser(request.name).encode(encoder, this.#memory.group!, chosen, this.#memory.staging!, at);
        else {
          const { rows: domain } = this.#lowered.tensors[request.tensor]!;
          const from = bases[domain]! + this.#plan.arena.offsets[request.tensor]! * rows[domain]!;
          encoder.copyBufferToBuffer(this.#memory.arena!, 4 * from, this.#memory.staging!, at, bytes);
        }
      }
      machine.submit([encoder.finish()]);
      return replaced;
    });
    const { costs } = this;
    costs.encode = (performance.now() - began) * 1000;
    costs.dispatches = machine.counts.dispatches - before.dispatches;
    costs.submits = machine.counts.submits - before.submits;
    costs.read = back;
    for (const buffer of retired) machine.release(buffer);
    const copy =
      back === 0 ? machine.device.queue.onSubmittedWorkDone().then(() => new Uint8Array(0)) : machine.take(this.#memory.staging!, back);
    const data = await copy;
    await settled;
    return this.#outputs(reads, data);
  }

  /** Room for the keys and values of a step. */
  #extend({ shares }: StepPlan<Sequence>): Extension {
    const grown = shares.map(({ sequence, tokens, encoder }) => {
      return { caches: sequence.caches, length: sequence.length, tokens: tokens.count, encoder: encoder.count };
    });
    return this.#caches.extend(grown, this.#limit);
  }

  /**
   * On a machine that holds nothing: takes what a step of sequences of `length` tokens would take, as a step does, and runs nothing. Bytes of the machine
   * while it would run, and how long the sequences may get before more is taken. All outputs are read.
   */
  rehearse(batch: readonly StepSequence[], length: number): { readonly bytes: number; readonly room: number } {
    const { machine } = this.#home;
    for (const { id } of batch) this.#sequences.get(id).length = length;
    const plan = planStep(batch, this.#sequences, this.#demands);
    const rows = this.#rows(plan);
    const { bases, numbers } = this.#plan.bases(rows);
    const reads = this.#reads(outputRequests(this.#program, {}), rows);
    const staging = reads.reduce((sum, { bytes }) => sum + bytes, 0);
    const growth = this.#extend(plan);
    const block = stepBlock({ plan, shape: this.#lowered.shape, rows, bases, caches: growth.views });
    this.#memory.make({ arena: 4 * numbers, step: block.byteLength, staging }, reads)?.take();
    const { bytes } = machine.counts;
    for (const buffer of growth.commit(machine.device.createCommandEncoder())) machine.release(buffer);
    this.#advance(plan);
    const rooms = growth.views.flatMap((views) =>
      views.filter((_, i) => this.#program.caches[i]!.rows === 'tokens').map(({ room }) => room),
    );
    return { bytes, room: Math.min(...rooms) };
  }

  #advance({ shares }: StepPlan<Sequence>): void {
    for (const { sequence, tokens, encoder } of shares) {
      sequence.length += tokens.count;
      sequence.remembers ||= encoder.count > 0;
      this.#caches.remember(sequence.caches, encoder.count);
    }
  }

  /** Where outputs go in the staging buffer. */
  #reads(requests: readonly OutputRequest[], rows: readonly number[]): readonly Read[] {
    let at = 0;
    return requests.map((request) => {
      const { tensor, width, largest } = request;
      const { rows: domain } = this.#lowered.tensors[tensor]!;
      const x = domain * 2 ** 29 + this.#plan.arena.offsets[tensor]!;
      const wanted: LargestRequest = { x, width, count: largest, rows: rows[domain]! };
      const chosen = choosesHere(wanted) ? wanted : undefined;
      const bytes = chosen ? LargestChooser.bytes(chosen) : 4 * rows[domain]! * width;
      const read = { request, rows: rows[domain]!, at, bytes, chosen };
      at += bytes;
      return read;
    });
  }

  #outputs(reads: readonly Read[], data: Uint8Array<ArrayBuffer>): StepOutputs {
    const outputs: Record<string, HostTensor> = {};
    for (const { request, rows, at, bytes, chosen } of reads) {
      const part = data.slice(at, at + bytes);
      if (chosen) {
        const { values, ids } = readPairs(part);
        const shape = [rows, chosen.count];
        outputs[request.name] = { dtype: 'f32', shape, data: values };
        outputs[`${request.name}.ids`] = { dtype: 'i32', shape, data: ids };
        continue;
      }
      const floats = elements({ dtype: 'f32', data: part });
      // Ids are whole numbers in f32 on the device.
      Object.assign(
        outputs,
        outputsOf([request], () => (request.dtype === 'i32' ? Int32Array.from(floats) : floats.slice())),
      );
    }
    return outputs;
  }

  #free(): void {
    const { machine } = this.#home;
    this.#plan.dispose();
    this.#memory.dispose();
    for (const { caches } of this.#sequences.clear()) this.#caches.close(caches);
    for (const buffer of [this.#constants, this.#numbers, this.#unbound]) machine.release(buffer);
  }

  get #owner(): string {
    return `an executable of ${this.#home.owner}`;
  }

  #idle(): void {
    if (this.#disposed) throw disposedError(this.#owner);
    if (!this.#running) return;
    throw new LowbitError('ERR_BAD_ARGUMENT', 'a step is running', { hint: 'Await it first: an executable does one step at a time.' });
  }

  /** By domain. Throws ERR_LIMIT. */
  #rows({ rows }: StepPlan<Sequence>): readonly number[] {
    const routed = rows.tokens * this.#topK;
    const most = Math.max(rows.tokens, routed, rows.encoder);
    if (most > MOST_ROWS) {
      throw new LowbitError('ERR_LIMIT', `a step of ${most} rows, the limit is ${MOST_ROWS}`, {
        hint: 'Feed long prompts in several steps.',
        details: { rows: most, limit: MOST_ROWS },
      });
    }
    const counts: number[] = [];
    counts[DOMAIN.tokens] = rows.tokens;
    counts[DOMAIN.outputs] = rows.outputs;
    counts[DOMAIN.routed] = routed;
    counts[DOMAIN.encoder] = rows.encoder;
    counts[DOMAIN.once] = 1;
    return counts;
  }
}
