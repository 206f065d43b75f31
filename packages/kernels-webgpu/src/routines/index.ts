// Routines of quantizers on the GPU, by the names that their packages give them. The bytes are those of the TypeScript: wgsl/exact.ts says how. Others than
// these (least squares, finishing, LLM.int8, packing) run where they run without this backend.

import type { HostTensor, Routine } from '@lowbit/core';
import type { Machine } from '../device.ts';
import { BNB_ROUTINES } from './bnb.ts';
import { HIGGS_ROUTINES } from './higgs.ts';
import { HQQ_ROUTINES } from './hqq.ts';

export interface RoutineHome {
  readonly machine: Machine;
  /** Throws ERR_DISPOSED when the backend is gone. */
  check(): void;
}

export type GpuRoutine = (home: RoutineHome, inputs: readonly HostTensor[], params: never) => Promise<readonly HostTensor[]>;

export function gpuRoutines(home: RoutineHome): ReadonlyMap<string, Routine> {
  const routine =
    (run: GpuRoutine): Routine =>
    async (inputs, params) => {
      home.check();
      return run(home, inputs, params as never);
    };
  return new Map(Object.entries({ ...HQQ_ROUTINES, ...BNB_ROUTINES, ...HIGGS_ROUTINES }).map(([name, run]) => [name, routine(run)]));
}
