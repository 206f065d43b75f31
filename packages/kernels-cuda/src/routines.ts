// Routines of quantizers on the GPU, by the names that their packages give them. The bytes are the same. Others than these run where they run without this backend.

import type { Routine } from '@lowbit/core';
import { deviceError } from './errors.ts';
import type { GpuRoutine, RoutineHome } from './routine-work.ts';
import { BNB_ROUTINES } from './routines-bnb.ts';
import { HIGGS_ROUTINES } from './routines-higgs.ts';
import { HQQ_ROUTINES } from './routines-hqq.ts';

/** All routines of a backend. */
export function gpuRoutines(home: RoutineHome): ReadonlyMap<string, Routine> {
  const routine = (run: GpuRoutine): Routine => {
    return async (inputs, params) => {
      home.check();
      try {
        const outputs = await run(home, inputs, params as never);
        home.check(); // a backend that was disposed meanwhile gives nothing any more
        return outputs;
      } catch (error) {
        throw deviceError(error);
      }
    };
  };
  const all = { ...HQQ_ROUTINES, ...BNB_ROUTINES, ...HIGGS_ROUTINES };
  return new Map(Object.entries(all).map(([name, run]) => [name, routine(run)]));
}
