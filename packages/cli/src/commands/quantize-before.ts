// What headers say of the work of `lowbit quantize` before any of it is done: plans that fail here cost nothing.

import type { Rule } from '@lowbit/core';
import type { Context } from '../context.ts';
import { idleSetting } from '../methods.ts';
import { type PlanModelOptions, planModel } from '../quantize-model.ts';
import { checkTargetOf } from './allocation.ts';
import { FLAGS, givenSettings } from './method-flags.ts';
import type { QuantizeOptions } from './quantize.ts';
import { type FilledOptions, hasTarget } from './quantize-recipe.ts';
import { noteFetch, noteFitting } from './quantize-report.ts';
import type { QuantizeWork } from './quantize-run.ts';

/** What the flags ask of a plan. */
type AskedPlan = PlanModelOptions & { readonly quantizer: Rule['use']; readonly rules: readonly Rule[] };

/**
 * Refuses what cannot be quantized and targets that cannot be met, and tells what flags have no effect. `isIdle`: importance is that of the default or for feedback,
 * and rules leave no linear that would look at it. Throws what `planModel` and `checkAllocation` throw.
 */
export async function lookBefore(
  { dir, options, chosen, given, from }: Pick<QuantizeWork, 'dir' | 'options' | 'chosen' | 'given' | 'from'>,
  flags: QuantizeOptions,
  context: Context,
): Promise<{ readonly isIdle: boolean }> {
  const { dtype, layout, method, dryRun = false } = options;
  const isShared = hasTarget(options);
  const isRun = options.importance !== 'none' && (isShared || !dryRun);
  if (!isShared && !isRun && given.length === 0) return { isIdle: false };
  const { signal } = context;
  const common = { ...chosen.parts, rules: given, dtype, signal };
  if (isShared) {
    const plan = await planModel(dir, { ...common, quantizer: 'keep' });
    noteFitting(options.targetSize, plan.weightBytes.before, context);
    if (typeof method === 'string')
      await checkTargetOf(dir, options, { method, settings: chosen.settings, from, rules: given, dtype, layout }, context);
    if (isRun) noteFetch(plan.source, plan.weightBytes.before, context);
    return { isIdle: false };
  }
  const asked: AskedPlan = { ...common, quantizer: chosen.quantizer(), layout };
  const plan = await planModel(dir, asked);
  if (given.length > 0) await noteUnused(dir, asked, plan.summary.quantizedLinears, options, flags, context);
  const isOptional = options.isDefault || options.feedback !== undefined; // what feedback needs, nobody else may look at
  const isIdle = isOptional && options.importance !== 'none' && !(await isWeighed(dir, asked));
  if (isRun && !isIdle) noteFetch(plan.source, plan.weightBytes.before, context);
  return { isIdle };
}

/** Whether rules leave any linear to what looks at importance. */
async function isWeighed(dir: string, asked: AskedPlan): Promise<boolean> {
  const weighed = (use: Rule['use']): Rule['use'] => (use !== 'keep' && use.usesImportance === false ? 'keep' : use);
  const rules = asked.rules.map((rule) => ({ ...rule, use: weighed(rule.use) }));
  const { summary } = await planModel(dir, { ...asked, quantizer: weighed(asked.quantizer), rules });
  return summary.quantizedLinears > 0;
}

/** A flag that only the method of -m has a use for does nothing where rules name what every linear gets. `all`: linears that are quantized. */
async function noteUnused(
  dir: string,
  asked: AskedPlan,
  all: number,
  { rules, method }: FilledOptions,
  flags: QuantizeOptions,
  context: Context,
): Promise<void> {
  const methods = rules.flatMap(({ use }) => (use === 'keep' ? [] : [use.method]));
  const idle = idleSetting(methods, givenSettings(flags));
  if (idle === undefined || typeof method !== 'string') return;
  const { summary } = await planModel(dir, { ...asked, quantizer: 'keep' });
  if (summary.quantizedLinears < all) return;
  context.note(`${FLAGS[idle]} has no effect: rules name what every linear gets, and none of them is ${method}.`);
}
