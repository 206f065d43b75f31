// Routines of quantizers on the GPU, by the names that their packages give them. The bytes are the same. Others than these run where they run without this backend.

import type { Routine } from '@lowbit/core';
import { deviceError } from './errors.ts';
import type { GpuRoutine, RoutineHome } from './routine-work.ts';
import { BNB_ROUTINES } from './routines-bnb.ts';
import { HIGGS_ROUTINES } from './routines-higgs.ts';
import { HQQ_ROUTINES, hqqHeld } from './routines-hqq.ts';

/**
 * Calls under way at a time, one for each lane of native/driver/lanes.h: one that is brought, one that is computed, one that goes back. Each holds a thread that
 * Node has for files, too, of which there are four; other calls wait here.
 */
const AT_ONCE = 3;

/** All routines of a backend. */
export function gpuRoutines(home: RoutineHome): ReadonlyMap<string, Routine> {
  const waiting: (() => void)[] = [];
  let running = 0;
  const turn = async (): Promise<void> => {
    if (running === AT_ONCE) await new Promise<void>((resolve) => waiting.push(resolve));
    else running++;
  };
  const done = (): void => {
    const next = waiting.shift();
    if (next) next();
    else running--;
  };
  const routine = (run: GpuRoutine): Routine => {
    return async (inputs, params) => {
      await turn();
      try {
        home.check();
        const outputs = await run(home, inputs, params as never);
        home.check(); // a backend that was disposed meanwhile gives nothing any more
        return outputs;
      } catch (error) {
        throw deviceError(error);
      } finally {
        done();
      }
    };
  };
  const named = (all: Readonly<Record<string, GpuRoutine>>) => Object.entries(all).map(([name, run]) => [name, routine(run)] as const);
  const held = routine(hqqHeld);
  const hqq = named(HQQ_ROUTINES).map(([name, run]) => [name, Object.assign(run, { held })] as const);
  return new Map<string, Routine>([...hqq, ...named({ ...BNB_ROUTINES, ...HIGGS_ROUTINES })]);
}
