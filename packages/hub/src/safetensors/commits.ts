// Group commits: units that ask while a commit is running are made durable together by the next one, with one sync for all.

import type { Json } from '@lowbit/core';

export interface Unit {
  readonly unit: string;
  readonly note: Json;
}

export interface Commits {
  /** Resolves when the unit is durable; rejects with the reason why its batch is not. */
  add(unit: string, note: Json): Promise<void>;
  /** Resolves, in any case, when what was added before is settled. */
  idle(): Promise<void>;
}

interface Waiting extends Unit {
  readonly resolve: () => void;
  readonly reject: (reason: unknown) => void;
}

/** `save` makes a batch durable; it is never called twice at the same time. */
export function createCommits(save: (units: readonly Unit[]) => Promise<void>): Commits {
  const queue: Waiting[] = [];
  let running = false;
  let flushing: Promise<void> = Promise.resolve();

  async function flush(): Promise<void> {
    while (queue.length > 0) {
      const batch = queue.splice(0);
      try {
        await save(batch.map(({ unit, note }) => ({ unit, note })));
        for (const { resolve } of batch) resolve();
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
    }
    running = false; // at once with the last look at the queue, or a commit in between would wait for ever
  }

  return {
    add: (unit, note) =>
      new Promise((resolve, reject) => {
        queue.push({ unit, note, resolve, reject });
        if (running) return;
        running = true;
        flushing = flush();
      }),
    idle: () => flushing,
  };
}
