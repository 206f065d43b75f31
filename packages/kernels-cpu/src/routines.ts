// Routines of quantizers in native code, by the names that their packages give them. The bytes are the same. What a routine does not know (weights of another
// dtype, a packing without lanes) is an error: nothing is computed elsewhere instead.

import type { Routine } from '@lowbit/core';
import { nativeError } from './prepare.ts';
import type { NativeRoutine, RoutineHome } from './routine-inputs.ts';
import { bnbRoutines } from './routines-bnb.ts';
import { feedbackRoutines } from './routines-feedback.ts';
import { higgsRoutines } from './routines-higgs.ts';
import { hqqRoutines } from './routines-hqq.ts';

/**
 * Calls under way at a time: one that works, and one that begins as soon as that is done. Each holds a thread that Node has for files, too, so there are no
 * more; other calls wait here.
 */
const AT_ONCE = 2;

/** All routines of a backend. */
export function nativeRoutines(home: RoutineHome): ReadonlyMap<string, Routine> {
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
  const routine = (run: NativeRoutine): Routine => {
    return async (inputs, params) => {
      await turn();
      try {
        const outputs = await run(home, inputs, params as never);
        home.machine(); // a backend that was disposed meanwhile gives nothing any more
        return outputs;
      } catch (error) {
        throw nativeError(error);
      } finally {
        done();
      }
    };
  };
  return new Map(
    Object.entries({ ...hqqRoutines, ...bnbRoutines, ...feedbackRoutines, ...higgsRoutines }).map(([name, run]) => [name, routine(run)]),
  );
}
