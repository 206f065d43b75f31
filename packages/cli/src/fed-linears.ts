// The linears that feedback goes to.

import { type CheckpointPlan, planQuantization } from '@lowbit/hub';
import { openModel } from './open.ts';
import { planOptions } from './plan-options.ts';
import type { PlanModelOptions } from './quantize-model.ts';

/** Paths of the linears of a plan whose quantizer takes importance of kind `matrix`. */
export function fedOf({ work }: Pick<CheckpointPlan, 'work'>): readonly string[] {
  return [...work].flatMap(([path, of]) => (of.kind === 'quantize' && of.quantizer.usesImportance === 'matrix' ? [path] : []));
}

/** The same of what is asked for a model folder. Reads headers alone. Throws what `planModel` throws. */
export async function fedLinears(path: string, options: PlanModelOptions): Promise<readonly string[]> {
  await using checkpoint = await openModel(path, options);
  const { plan } = await planQuantization(checkpoint, planOptions(options, checkpoint));
  return fedOf(plan);
}
