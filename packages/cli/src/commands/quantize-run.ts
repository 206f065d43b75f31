// The work of `lowbit quantize` once importance is found: shares out bits, plans, writes, measures, pushes, tells.

import { rm } from 'node:fs/promises';
import type { Rule, Runtime } from '@lowbit/core';
import type { LateImportance } from '@lowbit/hub';
import type { ModelAllocation } from '../allocate-model.ts';
import type { Context } from '../context.ts';
import type { FoundImportance, ImportanceReport } from '../importance.ts';
import { measureLoss } from '../measure.ts';
import { total } from '../plan-text.ts';
import { type PlanModelOptions, planModel, quantizeModel, quantizeModelShard } from '../quantize-model.ts';
import { writeRecipe } from '../recipe.ts';
import type { TextFile } from '../texts.ts';
import { allocate, allocationJson, renderAllocation, renderMeasured, type SensitivityFrom } from './allocation.ts';
import type { OpenBackend } from './backend.ts';
import { linearsAtOnce } from './linears-at-once.ts';
import { emitShard } from './merge-shards.ts';
import type { ChosenMethod } from './method-flags.ts';
import { pushedText, type QuantizePush } from './quantize-push.ts';
import { type FilledOptions, hasTarget, recipeMade } from './quantize-recipe.ts';
import { noteImportance, notePlan, renderPlan, renderReport } from './quantize-report.ts';

/** What is to be done, all of it looked at before. */
export interface QuantizeWork {
  readonly dir: string;
  readonly options: FilledOptions;
  readonly chosen: ChosenMethod;
  /** Rules of the flags. */
  readonly given: readonly Rule[];
  readonly from: SensitivityFrom;
  readonly threads: number;
  readonly pushing: QuantizePush | undefined;
  readonly out: string | undefined;
  /** Of --measure. */
  readonly text: TextFile | undefined;
  /** None for a plan that needs headers alone. */
  readonly place: OpenBackend | undefined;
  /** Where an interrupted run keeps importance. */
  readonly keptIn?: string | undefined;
}

/** Importance that was found before the model is quantized, and the milliseconds that it took. */
export interface FoundBefore extends FoundImportance {
  readonly ms: number;
}

/** The same, or what is found meanwhile; then `sharing` says what a target was shared out by before. */
export interface Found extends Omit<FoundBefore, 'importance'> {
  readonly importance: FoundImportance['importance'] | LateImportance;
  readonly sharing?: ImportanceReport;
}

/** Shares out the bits of a target; undefined without one. */
export async function sharedOut(
  { dir, options, chosen: { settings }, given, from, threads, place }: QuantizeWork,
  { importance }: Pick<FoundImportance, 'importance'>,
  context: Context,
): Promise<ModelAllocation | undefined> {
  const { method, dtype, layout } = options;
  if (!hasTarget(options) || typeof method !== 'string') return undefined;
  const how = { method, settings, from, rules: given, dtype, layout, threads, runtime: place?.runtime, importance };
  return await allocate(dir, options, how, context);
}

/** What the flags, and an allocation, ask of a plan. */
export function askedPlan(
  { options: { dtype, layout, shardSize }, chosen: { quantizer, parts }, given }: QuantizeWork,
  allocation: ModelAllocation | undefined,
  { signal }: Pick<Context, 'signal'>,
): PlanModelOptions {
  return { ...parts, quantizer: quantizer(), rules: allocation?.rules ?? given, dtype, layout, shardSize, signal };
}

/** Does it; `found` is undefined where nothing is run. */
export async function quantizeWith(
  work: QuantizeWork,
  found: Found | undefined,
  allocation: ModelAllocation | undefined,
  context: Context,
): Promise<void> {
  const { dir, options, chosen, threads, pushing, out, place } = work;
  const { dryRun = false, overwrite = false, maxMemory } = options;
  const { signal, progress } = context;
  const importance = found?.importance;
  const recipe = recipeMade(options, chosen.settings, allocation);
  if (options.saveRecipe !== undefined && recipe !== undefined) await writeRecipe(options.saveRecipe, recipe);
  const what = askedPlan(work, allocation, context);
  const isFed = options.feedback !== undefined;
  const shown = allocation
    ? { allocation: { ...allocationJson(allocation), ...(found?.sharing ? { importance: found.sharing } : {}) } }
    : {};
  const above = allocation ? `${renderAllocation(allocation, { bold: context.bold, isFed })}\n\n` : '';
  if (dryRun || out === undefined || !place) {
    const plan = await planModel(dir, what);
    if (allocation) progress.clear();
    notePlan(plan, context);
    const preview = await pushing?.preview(plan);
    await (context.json
      ? context.emit({ dryRun: true, ...plan, recipe, totalBytes: total(plan), ...shown, ...(preview ? { push: preview.json } : {}) })
      : context.print(`${above}${preview ? `${preview.text}\n` : ''}${renderPlan(plan, context)}\n`));
    return;
  }
  const routines = new Set<string>();
  const how = {
    ...what,
    runtime: countedRoutines(place.runtime, routines),
    importance: importance ?? ('none' as const),
    out,
    ...linearsAtOnce(place.used().name, maxMemory),
    threads,
    overwrite,
    allowNonFinite: options.allowNonFinite,
    onProgress: progress.report,
  };
  const told = found!.report;
  if (options.shard !== undefined) {
    const share = await quantizeModelShard(dir, { ...how, shard: options.shard });
    noteImportance(told, context);
    progress.clear();
    await emitShard({ ...share, importance: told }, out, context);
    return;
  }
  const report = await quantizeModel(dir, { ...how, resume: options.resume ?? false });
  // Whatever fails from here on: no run goes on from it.
  if (work.keptIn !== undefined) await rm(work.keptIn, { force: true });
  if (found?.sharing) noteImportance(found.sharing, context);
  noteImportance(told, context);
  const measured = work.text && (await measureLoss(dir, out, work.text, { runtime: place.runtime, signal, onProgress: progress.report }));
  const pushed = await pushing?.finish(report);
  progress.clear();
  notePlan(report, context);
  const backend = { ...place.used(), routines: [...routines].sort() };
  if (context.json) {
    await context.emit({
      dryRun: false,
      ...report,
      recipe,
      importance: told,
      totalBytes: total(report),
      ...shown,
      ...(measured ? { measured } : {}),
      ...(pushed ? { pushed } : {}),
      backend,
    });
    return;
  }
  const below = allocation && measured ? `${renderMeasured(allocation, measured, context)}\n\n` : '';
  const rendered = renderReport(
    { ...report, importance: told },
    { ...options, sharing: found?.sharing, made: recipe, findingMs: found!.ms, out, kept: options.out !== undefined, threads, backend },
    context,
  );
  await context.print(`${above}${below}${rendered}\n${pushed ? `\n${pushedText(pushed, options.out, context)}\n` : ''}`);
}

/** A backend's routines, with the names of those that are asked for and found. */
function countedRoutines(runtime: Pick<Runtime, 'routine'>, names: Set<string>): Pick<Runtime, 'routine'> {
  return {
    routine(name) {
      const found = runtime.routine(name);
      if (found) names.add(name);
      return found;
    },
  };
}
