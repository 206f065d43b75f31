// Work that several callers ask for and that is done once. Each follows its own signal: one that gives up does not take the others along.

import type { CallOptions } from '@lowbit/core';

type OnProgress = NonNullable<CallOptions['onProgress']>;

interface Running {
  readonly done: Promise<void>;
  readonly signal: AbortSignal | undefined;
  readonly listeners: Set<OnProgress>;
}

export class SharedWork {
  #running: Running | undefined;

  /**
   * Runs `work`, or waits while another caller's runs. Where that one was aborted, runs it anew with this caller's signal; `isDone` says whether there is
   * something left to do. Progress goes to everybody who waits. Throws what the work throws, and the reason of this caller's signal.
   */
  async run(work: (call: CallOptions) => Promise<void>, isDone: () => boolean, { signal, onProgress }: CallOptions): Promise<void> {
    while (!isDone()) {
      signal?.throwIfAborted();
      const other = this.#running;
      if (other === undefined) return this.#start(work, { signal, onProgress });
      if (onProgress) other.listeners.add(onProgress);
      try {
        await unlessAborted(other.done, signal);
      } catch (error) {
        if (signal?.aborted || !other.signal?.aborted) throw error;
      } finally {
        if (onProgress) other.listeners.delete(onProgress);
      }
    }
  }

  /** When nothing runs any more, however it ended. Throws the signal's reason. */
  async idle(signal: AbortSignal | undefined): Promise<void> {
    while (this.#running) {
      const settled = this.#running.done.catch(() => {}); // its callers see the failure
      await unlessAborted(settled, signal);
    }
  }

  #start(work: (call: CallOptions) => Promise<void>, { signal, onProgress }: CallOptions): Promise<void> {
    const listeners = new Set<OnProgress>(onProgress ? [onProgress] : []);
    const call: CallOptions = {
      signal,
      onProgress: (progress) => {
        for (const listener of listeners) listener(progress);
      },
    };
    const done = work(call).finally(() => {
      this.#running = undefined;
    });
    this.#running = { done, signal, listeners };
    return done;
  }
}

/** The outcome of `work`, or the signal's reason if that comes first. */
async function unlessAborted(work: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (signal === undefined) return work;
  signal.throwIfAborted();
  let stop = (): void => {};
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason);
    signal.addEventListener('abort', stop, { once: true });
  });
  try {
    await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
