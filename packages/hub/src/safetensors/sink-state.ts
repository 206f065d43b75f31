// How far a sink is, and what it may therefore be asked.

import { disposedError, LowbitError } from '@lowbit/core';

export interface SinkState {
  now: 'open' | 'reserved' | 'closing' | 'finished' | 'closed' | 'disposed';
  /** Throws unless the sink is in the wanted state, or, for 'writable', takes files in the state it is in. */
  check(wanted: 'open' | 'reserved' | 'writable'): void;
  /** Throws what has broken the sink, if something has. */
  checkWhole(): void;
  /** Does what leaves it unknown, where it fails, what is on the disk: nothing may be claimed after that. Rejects with the failure. */
  breaking<T>(work: () => Promise<T>): Promise<T>;
}

/** `folder`: the output, for messages. */
export function createSinkState(folder: string): SinkState {
  let broken: { readonly reason: unknown } | undefined;

  const state: SinkState = {
    now: 'open',
    check(wanted) {
      state.checkWhole();
      const { now } = state;
      if (now === 'disposed') throw disposedError(`the output ${folder}`);
      if (now !== 'open' && now !== 'reserved') {
        throw new LowbitError('ERR_DISPOSED', `the output ${folder} is ${now} already`, { hint: 'Write everything before close.' });
      }
      if (now === wanted || wanted === 'writable') return;
      throw new LowbitError('ERR_BAD_ARGUMENT', now === 'open' ? 'reserve the tensors before writing them' : 'reserve was called before');
    },
    checkWhole() {
      if (broken !== undefined) throw broken.reason;
    },
    async breaking(work) {
      try {
        return await work();
      } catch (reason) {
        broken ??= { reason };
        throw reason;
      }
    },
  };
  return state;
}
