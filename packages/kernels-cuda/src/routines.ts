// Routines of quantizers on the GPU, by the names that their packages give them. The bytes are the same. Others than these run where they run without this backend.

import type { Routine } from '@lowbit/core';
import { deviceError } from './errors.ts';
import type { LayerSize } from './held.ts';
import { bad, type GpuRoutine, type RoutineHome, tensorOf } from './routine-work.ts';
import { BNB_BLOCK_ROUTINES, BNB_ROW_ROUTINES } from './routines-bnb.ts';
import { HIGGS_ROUTINES } from './routines-higgs.ts';
import { HQQ_ROUTINES } from './routines-hqq.ts';

/**
 * Calls under way at a time, one for each lane of native/driver/lanes.h: one that is brought, one that is computed, one that goes back. Each holds a thread that
 * Node has for files, too, of which there are four; other calls wait here.
 */
const AT_ONCE = 3;

/** Routines whose weights may stay on the GPU between calls. */
const HOLDING: Readonly<Record<string, GpuRoutine>> = { ...HQQ_ROUTINES, ...BNB_BLOCK_ROUTINES };

interface HeldParams {
  readonly hold?: LayerSize;
  readonly release?: number;
  readonly held: number;
  readonly first: number;
  readonly routine: string;
  readonly params: unknown;
}

/** `held` of each of them, as packages/hqq/src/routines.ts says it. */
const throughHeld: GpuRoutine = async (home, inputs, { hold, release, held, first, routine: name, params }: HeldParams) => {
  if (hold) {
    const layer = home.held.open(hold);
    return layer === undefined ? [] : [tensorOf('f64', [1], new Uint8Array(Float64Array.of(layer).buffer))];
  }
  if (release !== undefined) {
    home.held.close(release);
    return [];
  }
  if (!Object.hasOwn(HOLDING, name)) throw bad(`there is no routine ${name} of weights that are held`);
  const { tile, brought } = home.held.tile(held, first, inputs[0]);
  const outputs = await HOLDING[name]!({ ...home, tile }, inputs, params as never);
  brought();
  return outputs;
};

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
  const held = routine(throughHeld);
  const holding = named(HOLDING).map(([name, run]) => [name, Object.assign(run, { held })] as const);
  return new Map<string, Routine>([...holding, ...named({ ...BNB_ROW_ROUTINES, ...HIGGS_ROUTINES })]);
}
