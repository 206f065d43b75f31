// A pool of workers that are none: routines run on this thread, on copies of their inputs as threads have them, and answer in a shuffled order.

import type { Routine, RoutinePool } from '@lowbit/core';
import { check } from './kit.ts';
import { seeded } from './random.ts';

export interface InProcessPool extends RoutinePool {
  /** Calls so far. */
  readonly calls: () => number;
  /** Most calls that waited or ran at a time. */
  readonly most: () => number;
}

/** A pool that serves these routines. Throws ERR_CONFORMANCE for a name it does not serve, and for arguments that cannot be sent to a thread. */
export function inProcessPool(routines: Readonly<Record<string, Routine>>, threads: number): InProcessPool {
  const next = seeded(threads);
  let calls = 0;
  let open = 0;
  let most = 0;
  return {
    threads,
    calls: () => calls,
    most: () => most,
    routine: (name) => async (inputs, params) => {
      const routine = routines[name];
      check(routine !== undefined, `it calls the routine ${name}, which is not served`);
      calls++;
      open++;
      most = Math.max(most, open);
      try {
        const sent = structuredClone({ inputs, params });
        // As a thread that is faster or slower than the others.
        await new Promise((resolve) => setTimeout(resolve, threads === 1 ? 0 : Math.floor(next() * 4)));
        return structuredClone(await routine(sent.inputs, sent.params));
      } finally {
        open--;
      }
    },
  };
}
