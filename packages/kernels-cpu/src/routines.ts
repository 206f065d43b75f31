// Routines of quantizers in native code, by the names that their packages give them. The bytes are the same. What a routine does not know (weights of another
// dtype, a packing without lanes) is an error: nothing is computed elsewhere instead.

import { type DType, type HostTensor, LowbitError, type Routine } from '@lowbit/core';
import type { CpuBinding, Machine, StoredFloat, TileArguments } from './binding.ts';
import { nativeError } from './prepare.ts';
import { bnbRoutines } from './routines-bnb.ts';
import { higgsRoutines } from './routines-higgs.ts';
import { hqqRoutines } from './routines-hqq.ts';

/** What the routines of a backend work with. `machine` throws ERR_DISPOSED when the backend is gone. */
export interface RoutineHome {
  readonly binding: CpuBinding;
  readonly machine: () => Machine;
}

/** A routine as it is written here: allocates what it gives, and calls the binding, which works on threads of its own. */
export type NativeRoutine = (home: RoutineHome, inputs: readonly HostTensor[], params: never) => Promise<readonly HostTensor[]>;

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
  return new Map(Object.entries({ ...hqqRoutines, ...bnbRoutines, ...higgsRoutines }).map(([name, run]) => [name, routine(run)]));
}

/** Weights [groups, size] as the binding takes them. Throws ERR_BAD_ARGUMENT. */
export function tileOf(weights: HostTensor | undefined): TileArguments {
  const [groups, size] = weights?.shape ?? [];
  if (isStoredFloat(weights?.dtype) && groups !== undefined && size !== undefined)
    return [weights!.data, weights!.dtype as StoredFloat, groups, size];
  throw badWeights(weights, '[groups, size]');
}

/** Weights [n] as the binding takes them. Throws ERR_BAD_ARGUMENT. */
export function runOf(weights: HostTensor | undefined): readonly [data: Uint8Array, dtype: StoredFloat, count: number] {
  const [count, ...more] = weights?.shape ?? [];
  if (isStoredFloat(weights?.dtype) && count !== undefined && count <= weights!.data.length && more.length === 0)
    return [weights!.data, weights!.dtype as StoredFloat, count];
  throw badWeights(weights, '[n]');
}

function isStoredFloat(dtype: DType | undefined): dtype is StoredFloat {
  return dtype === 'f32' || dtype === 'f16' || dtype === 'bf16';
}

function badWeights(weights: HostTensor | undefined, shape: string): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', `kernels-cpu: weights cannot be ${weights?.dtype} [${weights?.shape.join(', ')}]`, {
    hint: `Pass ${shape} in f32, f16 or bf16.`,
  });
}
