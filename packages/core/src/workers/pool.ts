// The threads of one module: started when there is a call that no idle one can take, up to a number; calls wait in the order they came.

import { disposedError } from '../disposed.ts';
import { LowbitError } from '../spec/errors.ts';
import type { Routine, RoutinePool } from '../spec/quantizer.ts';
import type { HostTensor } from '../spec/tensor.ts';
import { startThread, type Thread, type WebWorker } from './host.ts';
import { type Answer, type Call, fromFailure, postable } from './messages.ts';

interface Pending {
  readonly call: Call;
  readonly resolve: (outputs: readonly HostTensor[]) => void;
  readonly reject: (error: unknown) => void;
}

interface Lane {
  thread: Thread;
  pending?: Pending | undefined;
}

export class ThreadPool implements RoutinePool {
  readonly threads: number;
  readonly #module: URL;
  readonly #spawn: ((module: URL) => WebWorker) | undefined;
  readonly #lanes = new Set<Lane>();
  readonly #waiting: Pending[] = [];
  #ids = 0;
  #disposed = false;

  constructor(module: URL, threads: number, spawn: ((module: URL) => WebWorker) | undefined) {
    this.#module = module;
    this.threads = threads;
    this.#spawn = spawn;
  }

  /** Threads alive now. */
  get running(): number {
    return this.#lanes.size;
  }

  routine(name: string): Routine {
    return (inputs, params) =>
      new Promise((resolve, reject) => {
        if (this.#disposed) reject(disposed(name));
        else {
          this.#waiting.push({ call: { id: this.#ids++, routine: name, inputs: postable(inputs), params }, resolve, reject });
          this.#assign();
        }
      });
  }

  /** Hands waiting calls to idle threads, and starts threads while there are too few. */
  #assign(): void {
    while (this.#waiting.length > 0) {
      const idle = [...this.#lanes].find((lane) => !lane.pending);
      if (!idle && this.#lanes.size >= this.threads) return;
      const pending = this.#waiting.shift()!;
      const { routine } = pending.call;
      let lane: Lane;
      try {
        lane = idle ?? this.#start();
      } catch (error) {
        pending.reject(this.#lost(routine, error));
        continue;
      }
      try {
        lane.thread.post(pending.call);
        lane.thread.keepAlive(true);
        lane.pending = pending;
      } catch (error) {
        lane.thread.keepAlive(false);
        pending.reject(
          new LowbitError('ERR_BAD_ARGUMENT', `${routine}: these arguments cannot be sent to a worker: ${(error as Error).message}`, {
            hint: 'Inputs are tensors, parameters plain JSON.',
            cause: error,
          }),
        );
      }
    }
  }

  #start(): Lane {
    const lane = {} as Lane;
    const onLost = (reason: unknown): void => {
      if (!this.#lanes.delete(lane)) return;
      lane.pending?.reject(this.#lost(lane.pending.call.routine, reason));
      void lane.thread.terminate();
      this.#assign();
    };
    lane.thread = startThread(this.#module, this.#spawn, (message) => this.#answered(lane, message as Answer), onLost);
    this.#lanes.add(lane);
    return lane;
  }

  #answered(lane: Lane, answer: Answer): void {
    const { pending } = lane;
    if (!pending || pending.call.id !== answer.id) return;
    lane.pending = undefined;
    lane.thread.keepAlive(false);
    if ('outputs' in answer) pending.resolve(answer.outputs);
    else pending.reject(fromFailure(pending.call.routine, answer.failure));
    this.#assign();
  }

  #lost(routine: string, reason: unknown): LowbitError {
    const why = reason instanceof Error ? reason.message : String(reason);
    return new LowbitError('ERR_WORKER', `the worker for ${routine} was lost: ${why}`, {
      hint: 'Use one thread, or see whether the module of the worker can be loaded; bundlers need `spawn` of createWorkers.',
      details: { routine, module: this.#module.href },
      cause: reason,
    });
  }

  /** Ends the threads; calls that are under way or waiting are rejected with ERR_DISPOSED. */
  async dispose(): Promise<void> {
    this.#disposed = true;
    const lanes = [...this.#lanes];
    this.#lanes.clear();
    const pending = [...lanes.flatMap((lane) => lane.pending ?? []), ...this.#waiting.splice(0)];
    for (const { call, reject } of pending) reject(disposed(call.routine));
    await Promise.all(lanes.map(({ thread }) => thread.terminate()));
  }
}

function disposed(routine: string): LowbitError {
  return disposedError('the pool of workers', `${routine} was done`);
}
