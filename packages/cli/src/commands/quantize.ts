// `lowbit quantize`: a model folder into a smaller one, or with --dry-run the plan of it. Here what has to be known before; the work is in `quantize-run.ts`.

import { availableThreads } from '@lowbit/core';
import { checkOutputFree } from '@lowbit/hub';
import type { CommonOptions, Context } from '../context.ts';
import { checkWritable } from '../files.ts';
import { makeRules } from '../methods.ts';
import {
  type Bits,
  type Dimension,
  type FloatDType,
  type Group,
  type ImportanceFrom,
  type LayoutName,
  type MethodChoice,
  parseUse,
  type QuantZero,
  type RuleText,
  type ScaleKind,
  type Solver,
} from '../parse.ts';
import type { PresetName } from '../presets.ts';
import { importanceSource } from '../recipe.ts';
import { readTexts } from '../texts.ts';
import { type AllocationFlags, sensitivityFrom } from './allocation.ts';
import { type BackendFlags, openBackend } from './backend.ts';
import { chosenMethod } from './method-flags.ts';
import { lookBefore } from './quantize-before.ts';
import { checkTogether, checkUses } from './quantize-checks.ts';
import { findAndQuantize, withoutFeedback } from './quantize-found.ts';
import { preparePush, type QuantizePushFlags } from './quantize-push.ts';
import { type FilledOptions, hasTarget, hasUseForImportance, recipeOf, sharingImportance, withRecipe } from './quantize-recipe.ts';
import { noteSlow } from './quantize-report.ts';
import { type QuantizeWork, quantizeWith } from './quantize-run.ts';

export interface QuantizeOptions extends CommonOptions, AllocationFlags, Pick<BackendFlags, 'backend'>, QuantizePushFlags {
  readonly out?: string;
  readonly method?: MethodChoice;
  readonly bits?: Bits;
  readonly group?: Group;
  readonly axis?: 0 | 1;
  readonly solver?: Solver;
  readonly feedback?: number;
  readonly doubleQuant?: boolean;
  readonly scale?: ScaleKind;
  readonly threshold?: number;
  readonly p?: Dimension;
  readonly hadamardSize?: number;
  readonly computeDtype?: FloatDType;
  readonly allowNonFinite?: boolean;
  readonly importance?: ImportanceFrom;
  readonly preset?: PresetName;
  readonly recipe?: string;
  readonly saveRecipe?: string;
  readonly rules: readonly RuleText[];
  readonly dtype?: FloatDType;
  readonly quantScale?: boolean;
  readonly quantZero?: QuantZero;
  readonly layout?: LayoutName;
  readonly maxMemory?: number;
  readonly threads?: number;
  readonly shardSize?: number;
  readonly shard?: { readonly index: number; readonly count: number };
  readonly dryRun?: boolean;
  readonly resume?: boolean;
  readonly overwrite?: boolean;
}

/** Threads are taken unasked up to here: each costs about 80 MB. */
const MOST_DEFAULT_THREADS = 8;

/** Runs the command. */
export async function quantizeCommand(dir: string, flags: QuantizeOptions, context: Context): Promise<void> {
  const recipe = await recipeOf(flags);
  const filled = withRecipe(flags, recipe);
  checkTogether(filled, flags);
  const { dryRun = false, resume = false, overwrite = false } = filled;
  const threads = filled.threads ?? Math.min(MOST_DEFAULT_THREADS, availableThreads());
  const chosen = await chosenMethod(filled);
  // Unasked, nothing is run for what has no use for it.
  const isUseless = filled.isDefault && !hasUseForImportance(filled, chosen.settings);
  const options: FilledOptions = isUseless ? { ...filled, importance: 'none' } : filled;
  checkUses(options, flags, [...options.rules.map(({ use }) => use), ...(options.choices ?? []).map(parseUse)], chosen.quantizer);
  // Read first: a wrong file should not cost the work before.
  const source = await importanceSource(options.importance, '--importance');
  const pushing = await preparePush(options, chosen.parts, context);
  const out = pushing?.out ?? options.out;
  if (out !== undefined && !dryRun && options.shard === undefined) await checkOutputFree(out, { resume, overwrite, source: dir });
  const text = options.measure === undefined ? undefined : await readTexts(options.measure, '--measure');
  // What goes on where it was writes them once more.
  const replace = overwrite || resume || options.shard !== undefined;
  await checkWritable(options.saveSensitivity, '--save-sensitivity', { replace });
  await checkWritable(options.saveRecipe, '--save-recipe', { replace });
  const isShared = hasTarget(options);
  const { signal } = context;
  const given = makeRules(options.rules, chosen.ofRules);
  const tested = isShared ? await sensitivityFrom(dir, options.sensitivity, signal) : {};
  // What cannot be quantized, and targets that cannot be met, are refused before anything is measured.
  const { isIdle, isUnfed } = await lookBefore({ dir, options, chosen, given, from: tested }, flags, context);
  // A plan needs headers alone.
  await using place = dryRun && !isShared ? undefined : await openBackend(backendFlags(options), context);
  const isOwn = (options.backend ?? 'auto') === 'auto';
  if (options.isDefault && options.importance !== 'none' && !isIdle && place?.used().name === 'reference' && isOwn) noteSlow(context);
  const all: QuantizeWork = { dir, options, chosen, given, from: tested, threads, pushing, out, text, place };
  // What there would be if nobody had asked for feedback.
  const unfed = isUnfed ? sharingImportance(flags, recipe) : options.importance;
  const fed = isUnfed ? withoutFeedback(all, unfed) : all;
  const work: QuantizeWork = isIdle ? { ...fed, options: { ...fed.options, importance: 'none' } } : fed;
  // Awaited, each of them: the backend goes when this function returns.
  if (!place) return await quantizeWith(work, undefined, undefined, context);
  const from = isShared && options.feedback !== undefined ? sharingImportance(flags, recipe) : options.importance;
  const sourceOf = async (name: FilledOptions['importance']) =>
    name === options.importance ? source : await importanceSource(name, '--importance');
  const sharing = { from, source: await sourceOf(from) };
  await findAndQuantize({ ...work, place }, { source: isIdle ? 'none' : await sourceOf(unfed), sharing }, context);
}

/** Threads are those of workers, too: backends that have no such setting are not bothered with it. */
function backendFlags({ backend = 'auto', threads }: FilledOptions): BackendFlags {
  return { backend, ...(backend === 'auto' || backend === 'cpu' ? { threads } : {}) };
}
