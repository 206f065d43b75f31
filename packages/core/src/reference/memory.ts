// Counts the bytes that a backend holds, by whoever holds them.

import { LowbitError } from '../spec/errors.ts';

/** Bytes held now. Every `take` is paired with a `give` of the same size. */
export interface Memory {
  readonly allocated: () => number;
  take(bytes: number): void;
  give(bytes: number): void;
}

export function createMemory(): Memory {
  let held = 0;
  return {
    allocated: () => held,
    take(bytes) {
      held += bytes;
    },
    give(bytes) {
      held -= bytes;
    },
  };
}

/** The ERR_DISPOSED of something used after dispose: names its owner. */
export function disposedError(owner: string): LowbitError {
  return new LowbitError('ERR_DISPOSED', `${owner} was disposed`, {
    hint: 'Make a new one; dispose only when the last user is done.',
    details: { owner },
  });
}
