// One half-quadratic step over all tiles of a weight, here or on a backend.

import { elements, hostTensor, type QuantizeContext } from '@lowbit/core';
import type { GroupBlock } from '../grid.ts';
import { eachTile, gather, type Layer, scatter } from '../store.ts';
import { proximalStep, type Shrinkage } from './proximal-step.ts';

type Context = Pick<QuantizeContext, 'signal' | 'routine'>;

/** Replaces the zeros of the grid; returns the mean absolute error of the layer under the zeros it found, as float32, which is how errors are compared. */
export async function proximalPass(
  layer: Layer,
  grid: { readonly inverse: Float32Array; readonly zero: Float32Array },
  shrinkage: Shrinkage,
  context: Context,
): Promise<number> {
  const step = proximalRoutine(context);
  let sum = 0;
  await eachTile(layer, context.signal, async (block, tile) => {
    const zero = gather(grid.zero, tile);
    sum += await step(block, layer.levels, gather(grid.inverse, tile), zero, shrinkage);
    scatter(zero, tile, grid.zero);
  });
  return Math.fround(sum / (layer.tiling.groups * layer.tiling.size));
}

type Step = (
  block: GroupBlock,
  levels: number,
  inverse: Float32Array,
  zero: Float32Array,
  shrinkage: Shrinkage,
) => number | Promise<number>;

/**
 * `affine.proximal.step`: a backend's version if it has one, else `proximalStep`.
 * Routine inputs: weights f32 [groups, size], inverse f32 [groups], zero f32 [groups]; params levels, norm, beta; outputs: zero f32 [groups], error sum f64 [].
 */
function proximalRoutine(context: Context): Step {
  const routine = context.routine?.('affine.proximal.step');
  if (!routine) return proximalStep;
  return async (block, levels, inverse, zero, { norm, beta }) => {
    const { weights, groups, size } = block;
    const inputs = [hostTensor('f32', [groups, size], weights), hostTensor('f32', [groups], inverse), hostTensor('f32', [groups], zero)];
    const [newZero, error] = await routine(inputs, { levels, norm, beta });
    zero.set(elements({ dtype: 'f32', data: newZero!.data }));
    return elements({ dtype: 'f64', data: error!.data })[0]!;
  };
}
