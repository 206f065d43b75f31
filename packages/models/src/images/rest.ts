// Decoding in pieces: a photograph takes seconds, and others want to be served meanwhile.

import { breather } from '@lowbit/core';

/** To call between rows, and to wait for. Throws what a signal was aborted with. */
export type Rest = () => Promise<void> | undefined;

export function restingWith(signal: AbortSignal | undefined): Rest {
  const breathe = breather();
  return () => {
    signal?.throwIfAborted();
    return breathe();
  };
}
