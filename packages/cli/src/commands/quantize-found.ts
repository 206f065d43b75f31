// What `lowbit quantize` finds before it quantizes: importance, and what gets which choice by it. With feedback moments are found meanwhile.

import type { ModelAllocation } from '../allocate-model.ts';
import type { Context } from '../context.ts';
import { findImportance, type ImportanceSource } from '../importance.ts';
import { keepingImportance } from '../kept-importance.ts';
import { layeredImportance } from '../layered-importance.ts';
import { openModelFolder } from '../open.ts';
import type { ImportanceFrom } from '../parse.ts';
import { isFed, type WeighedLinears, weighedLinears } from '../weighed-linears.ts';
import type { OpenBackend } from './backend.ts';
import { hasTarget } from './quantize-recipe.ts';
import { askedPlan, type Found, type FoundBefore, type QuantizeWork, quantizeWith, sharedOut } from './quantize-run.ts';

type Work = QuantizeWork & { readonly place: OpenBackend };

/** Where importance comes from. */
export interface Sources {
  /** Of what is quantized. */
  readonly source: ImportanceSource;
  /** Of what a target is shared out by: single channels, also where feedback takes matrices. */
  readonly sharing: { readonly from: ImportanceFrom; readonly source: ImportanceSource };
}

/** Finds importance, shares out a target by it, and does the work. What an interrupted run found is kept beside the output. */
export async function findAndQuantize(work: Work, { source, sharing }: Sources, context: Context): Promise<void> {
  const { options, out } = work;
  const { dryRun = false, resume = false, overwrite = false, shard, feedback } = options;
  const steps = async (keepIn: string | undefined): Promise<void> => {
    const kept: Work = { ...work, keptIn: keepIn };
    const isAsked = feedback !== undefined && source !== 'none';
    const weighed = (allocation?: ModelAllocation) => weighedLinears(work.dir, askedPlan(work, allocation, context));
    // It keeps nothing itself; an earlier run without feedback may have.
    if (isAsked && !hasTarget(options)) return await quantizeFed(kept, { source, linears: await weighed() }, undefined, context);
    const found = await find(work, isAsked ? sharing.source : source, keepIn, context);
    const allocation = await sharedOut(kept, found, context);
    if (!isAsked) return await quantizeWith(kept, found, allocation, context);
    const linears = await weighed(allocation);
    if (isFed(linears)) return await quantizeFed(kept, { source, linears }, { found, allocation }, context);
    context.note('--feedback has no effect: no linear got a choice that takes it, so the model is not run for it.');
    await quantizeWith(withoutFeedback(kept, sharing.from), found, allocation, context);
  };
  // Workers of one model may write beside one another: none keeps what it found.
  if (source === 'none' || out === undefined || dryRun || shard !== undefined) await steps(undefined);
  else await keepingImportance(out, { resume, overwrite }, steps);
}

/** Importance of single channels, and what it took. */
async function find(
  { dir, place }: Work,
  source: ImportanceSource,
  keepIn: string | undefined,
  { signal, progress }: Context,
): Promise<FoundBefore> {
  const started = performance.now();
  const how = { runtime: place.runtime, signal, onProgress: progress.report, keepIn };
  return { ...(await findImportance(dir, source, how)), ms: performance.now() - started };
}

/** `linears`: those that feedback goes to, and what else is weighed. `before`: how a target was shared out, and by what. */
async function quantizeFed(
  work: Work,
  { source, linears }: { readonly source: ImportanceSource; readonly linears: WeighedLinears },
  before: { readonly found: FoundBefore; readonly allocation: ModelAllocation | undefined } | undefined,
  context: Context,
): Promise<void> {
  const { dir, options, out, place } = work;
  const { signal, progress } = context;
  if (options.dryRun || out === undefined) return await quantizeWith(work, before?.found, before?.allocation, context);
  const started = performance.now();
  await using checkpoint = await openModelFolder(dir, { signal });
  const how = { linears, runtime: place.runtime, signal, onProgress: progress.report };
  await using layers = await layeredImportance(checkpoint, source, how);
  const ms = performance.now() - started + (before?.found.ms ?? 0);
  const found: Found = { ...layers, ms, ...(before ? { sharing: before.found.report } : {}) };
  await quantizeWith(work, found, before?.allocation, context);
}

/** As if nobody had asked for feedback, in the recipe, too. `importance`: what there would be then. */
export function withoutFeedback<W extends QuantizeWork>(work: W, importance: ImportanceFrom = work.options.importance): W {
  const { feedback: _, ...options } = work.options;
  const { feedback: __, ...settings } = work.chosen.settings;
  return { ...work, options: { ...options, importance }, chosen: { ...work.chosen, settings } };
}
