// What feedback and others ask of importance.

import type { Importance } from '@lowbit/core';
import { type CheckpointPlan, planQuantization } from '@lowbit/hub';
import { openModel } from './open.ts';
import { planOptions } from './plan-options.ts';
import type { PlanModelOptions } from './quantize-model.ts';

/** The linears whose quantizer uses importance, by path: `matrix` where it is one of feedback. */
export type WeighedLinears = ReadonlyMap<string, Importance['kind']>;

/** Those of a plan. */
export function weighedOf({ work }: Pick<CheckpointPlan, 'work'>): WeighedLinears {
  const weighed = new Map<string, Importance['kind']>();
  for (const [path, of] of work) {
    const uses = of.kind === 'quantize' && of.quantizer.usesImportance;
    if (uses !== false) weighed.set(path, uses === 'matrix' ? 'matrix' : 'diagonal');
  }
  return weighed;
}

/** Those of what is asked for a model folder. Reads headers alone. Throws what `planModel` throws. */
export async function weighedLinears(path: string, options: PlanModelOptions): Promise<WeighedLinears> {
  await using checkpoint = await openModel(path, options);
  const { plan } = await planQuantization(checkpoint, planOptions(options, checkpoint));
  return weighedOf(plan);
}

/** Whether feedback goes to any. */
export function isFed(weighed: WeighedLinears): boolean {
  return [...weighed.values()].includes('matrix');
}
