// What a routine of a quantizer is here, and tensors of weights as the binding takes them.

import { type DType, type HostTensor, LowbitError } from '@lowbit/core';
import type { CpuBinding, Machine, StoredFloat, TileArguments } from './binding.ts';

/** What the routines of a backend work with. `machine` throws ERR_DISPOSED when the backend is gone. */
export interface RoutineHome {
  readonly binding: CpuBinding;
  readonly machine: () => Machine;
}

/** A routine as it is written here: allocates what it gives, and calls the binding, which works on threads of its own. */
export type NativeRoutine = (home: RoutineHome, inputs: readonly HostTensor[], params: never) => Promise<readonly HostTensor[]>;

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
