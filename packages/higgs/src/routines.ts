// The routine of this package: tensors in, tensors out, no state, so that any thread can run it.

import { type HostTensor, hostTensor, type JsonObject, toFloat32 } from '@lowbit/core';
import { type BlockRun, codeBlocks } from './code-blocks.ts';

/** Weights of a run of blocks f32 [n] -> codes u8 [blocks * block / p], scales as stored f32 [blocks * block / group], error sums f64 [3]. */
export async function higgsCode([weights]: readonly HostTensor[], run: JsonObject): Promise<readonly HostTensor[]> {
  const { codes, scales, error } = codeBlocks(toFloat32(weights!), run as unknown as BlockRun);
  return [hostTensor('u8', [codes.length], codes), hostTensor('f32', [scales.length], scales), hostTensor('f64', [3], error)];
}
