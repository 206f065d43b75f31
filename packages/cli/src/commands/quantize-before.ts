// What headers say of the work of `lowbit quantize` before any of it is done: plans that fail here cost nothing.

import type { Rule } from '@lowbit/core';
import type { Context } from '../context.ts';
import { idleSettings } from '../methods.ts';
import { type PlanModelOptions, planModel } from '../quantize-model.ts';
import { isFed, weighedLinears } from '../weighed-linears.ts';
import { checkTargetOf } from './allocation.ts';
import { FLAGS, givenSettings } from './method-flags.ts';
import type { QuantizeOptions } from './quantize.ts';
import { type FilledOptions, hasTarget } from './quantize-recipe.ts';
import { noteFetch, noteFitting } from './quantize-report.ts';
import type { QuantizeWork } from './quantize-run.ts';

/** What the flags ask of a plan. */
type AskedPlan = PlanModelOptions & { readonly quantizer: Rule['use']; readonly rules: readonly Rule[] };

/** What rules leave nothing to do for. */
export interface Idle {
  /** Importance that is that of the default or for feedback: no linear would look at it. */
  readonly isIdle: boolean;
  /** Feedback: no linear has it. Of a target only the choices that are taken say so. */
  readonly isUnfed: boolean;
}

/** Refuses what cannot be quantized and targets that cannot be met, and tells what flags have no effect. Throws what `planModel` and `checkAllocation` throw. */
export async function lookBefore(
  { dir, options, chosen, given, from }: Pick<QuantizeWork, 'dir' | 'options' | 'chosen' | 'given' | 'from'>,
  flags: QuantizeOptions,
  context: Context,
): Promise<Idle> {
  const { dtype, layout, method, dryRun = false } = options;
  const isShared = hasTarget(options);
  const isRun = options.importance !== 'none' && (isShared || !dryRun);
  if (!isShared && !isRun && given.length === 0) return { isIdle: false, isUnfed: false };
  const { signal } = context;
  const common = { ...chosen.parts, rules: given, dtype, signal };
  if (isShared) {
    const plan = await planModel(dir, { ...common, quantizer: 'keep' });
    noteFitting(options.targetSize, plan.weightBytes.before, context);
    if (typeof method === 'string')
      await checkTargetOf(dir, options, { method, settings: chosen.settings, from, rules: given, dtype, layout }, context);
    if (isRun) noteFetch(plan.source, plan.weightBytes.before, context);
    return { isIdle: false, isUnfed: false };
  }
  const asked: AskedPlan = { ...common, quantizer: chosen.quantizer(), layout };
  const plan = await planModel(dir, asked);
  if (given.length > 0) await noteUnused(dir, asked, plan.summary.quantizedLinears, options, flags, context);
  const isOptional = options.isDefault || options.feedback !== undefined; // what feedback needs, nobody else may look at
  const weighed = isOptional && options.importance !== 'none' ? await weighedLinears(dir, asked) : undefined;
  const isUnfed = options.feedback !== undefined && weighed !== undefined && !isFed(weighed);
  if (isUnfed) context.note('--feedback has no effect: rules leave no linear that takes it.');
  const isIdle = weighed?.size === 0;
  if (isRun && !isIdle) noteFetch(plan.source, plan.weightBytes.before, context);
  return { isIdle, isUnfed };
}

/** Flags that only the method of -m has a use for do nothing where rules name what every linear gets. `all`: linears that are quantized. */
async function noteUnused(
  dir: string,
  asked: AskedPlan,
  all: number,
  { rules, method }: FilledOptions,
  flags: QuantizeOptions,
  context: Context,
): Promise<void> {
  const methods = rules.flatMap(({ use }) => (use === 'keep' ? [] : [use.method]));
  const { feedback: _, ...settings } = givenSettings(flags); // told apart: it goes to some of hqq alone
  const idle = idleSettings(methods, settings).map((name) => FLAGS[name]);
  if (idle.length === 0 || typeof method !== 'string') return;
  const { summary } = await planModel(dir, { ...asked, quantizer: 'keep' });
  if (summary.quantizedLinears < all) return;
  const named = idle.length === 1 ? `${idle[0]} has` : `${idle.slice(0, -1).join(', ')} and ${idle.at(-1)} have`;
  context.note(`${named} no effect: rules name what every linear gets, and none of them is ${method}.`);
}
