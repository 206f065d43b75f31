// `lowbit quantize`: a model folder into a smaller one, or with --dry-run the plan of it.

import { rm } from 'node:fs/promises';
import { availableThreads, type Runtime } from '@lowbit/core';
import { checkOutputFree } from '@lowbit/hub';
import type { CommonOptions, Context } from '../context.ts';
import { UsageError } from '../errors.ts';
import { checkWritable } from '../files.ts';
import { type FoundImportance, findImportance } from '../importance.ts';
import { keepingImportance } from '../kept-importance.ts';
import { measureLoss } from '../measure.ts';
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
  usesImportance,
} from '../parse.ts';
import { total } from '../plan-text.ts';
import type { PresetName } from '../presets.ts';
import { type PlanModelOptions, planModel, quantizeModel, quantizeModelShard } from '../quantize-model.ts';
import { importanceSource, writeRecipe } from '../recipe.ts';
import { readTexts } from '../texts.ts';
import {
  type AllocationFlags,
  allocate,
  allocationJson,
  checkFlags,
  renderAllocation,
  renderMeasured,
  sensitivityFrom,
} from './allocation.ts';
import { type BackendFlags, checkBackendFlags, openBackend } from './backend.ts';
import { linearsAtOnce } from './linears-at-once.ts';
import { emitShard } from './merge-shards.ts';
import { chosenMethod } from './method-flags.ts';
import { preparePush, pushedText, type QuantizePushFlags } from './quantize-push.ts';
import { type FilledOptions, hasTarget, hasUseForImportance, methodText, recipeMade, withRecipe } from './quantize-recipe.ts';
import { noteFetch, noteImportance, notePlan, noteSlow, renderPlan, renderReport } from './quantize-report.ts';

export interface QuantizeOptions extends CommonOptions, AllocationFlags, Pick<BackendFlags, 'backend'>, QuantizePushFlags {
  readonly out?: string;
  readonly method?: MethodChoice;
  readonly bits?: Bits;
  readonly group?: Group;
  readonly axis?: 0 | 1;
  readonly solver?: Solver;
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
  const filled = await withRecipe(flags);
  const {
    dryRun = false,
    maxMemory,
    threads = Math.min(MOST_DEFAULT_THREADS, availableThreads()),
    resume = false,
    overwrite = false,
  } = filled;
  if (filled.out === undefined && filled.push === undefined && !dryRun) {
    throw new UsageError(
      'quantize needs an output folder',
      'Name a new one with --out DIR, a repository with --push ORG/NAME, or pass --dry-run to see what would be written.',
    );
  }
  checkShardFlags(filled);
  checkPluginFlags(filled);
  checkFlags({ ...filled, method: flags.method });
  checkBackendFlags({ backend: filled.backend });
  const { settings, ofRules, quantizer, parts } = await chosenMethod(filled);
  // Unasked, nothing is run for what has no use for it.
  const options: FilledOptions = filled.isDefault && !hasUseForImportance(filled, settings) ? { ...filled, importance: 'none' } : filled;
  const uses = [...options.rules.map(({ use }) => use), ...(options.choices ?? []).map(parseUse)];
  const isUsed = typeof options.method === 'string' ? usesImportance(options) : quantizer().usesImportance !== false;
  if (options.importance !== 'none' && !isUsed && !uses.some((use) => use !== 'keep' && usesImportance(use))) {
    const from = typeof options.importance === 'string' ? options.importance : options.importance.file;
    throw new UsageError(
      `--importance ${from} needs --solver least-squares or --scale search`,
      flags.importance === undefined
        ? 'The recipe asks for it, and nothing here has a use for it: pass --importance none.'
        : 'Nothing else has a use for it.',
    );
  }
  if (options.dtype === 'f32' && [options.method, ...uses.map((use) => (use === 'keep' ? undefined : use.method))].includes('higgs')) {
    throw new UsageError(
      'higgs stores scales and tables in 16 bits, so --dtype cannot be f32',
      'Use --dtype bf16 or f16, or leave it out.',
    );
  }
  // Read first: a wrong file should not cost the work before.
  const source = await importanceSource(options.importance, '--importance');
  const pushing = await preparePush(options, parts, context);
  const out = pushing?.out ?? options.out;
  if (out !== undefined && !dryRun && options.shard === undefined) await checkOutputFree(out, { resume, overwrite, source: dir });
  const text = options.measure === undefined ? undefined : await readTexts(options.measure, '--measure');
  await checkWritable(options.saveSensitivity, '--save-sensitivity');
  await checkWritable(options.saveRecipe, '--save-recipe');
  const { dtype, layout, method } = options;
  const isShared = hasTarget(options);
  const { signal, progress } = context;
  const given = makeRules(options.rules, ofRules);
  const from = isShared ? await sensitivityFrom(dir, options.sensitivity, signal) : {};
  // What cannot be quantized is refused before anything is measured.
  let isIdle = false;
  if (isShared || (options.importance !== 'none' && !dryRun)) {
    const {
      summary,
      source: place,
      weightBytes,
    } = await planModel(dir, {
      ...parts,
      quantizer: isShared ? 'keep' : quantizer(),
      rules: given,
      dtype,
      layout: isShared ? undefined : layout,
      signal,
    });
    isIdle = options.isDefault && !isShared && summary.quantizedLinears === 0;
    if (options.importance !== 'none' && !isIdle) noteFetch(place, weightBytes.before, context);
  }
  // A plan needs headers alone.
  await using place = dryRun && !isShared ? undefined : await openBackend(backendFlags(options), context);
  const runtime = place?.runtime;
  if (options.isDefault && options.importance !== 'none' && place?.used().name === 'reference' && (options.backend ?? 'auto') === 'auto')
    noteSlow(context);
  const quantizeWith = async (found: FoundImportance | undefined, keptIn?: string): Promise<void> => {
    const importance = found?.importance;
    const allocation =
      isShared && typeof method === 'string'
        ? await allocate(dir, options, { method, settings, from, rules: given, dtype, layout, threads, runtime, importance }, context)
        : undefined;
    const recipe = recipeMade(options, settings, allocation);
    if (options.saveRecipe !== undefined && recipe !== undefined) await writeRecipe(options.saveRecipe, recipe);
    const what: PlanModelOptions = {
      ...parts,
      quantizer: quantizer(),
      rules: allocation?.rules ?? given,
      dtype,
      layout,
      shardSize: options.shardSize,
      signal,
    };
    const shown = allocation ? { allocation: allocationJson(allocation) } : {};
    const above = allocation ? `${renderAllocation(allocation, context)}\n\n` : '';
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
    if (options.shard !== undefined) {
      const share = await quantizeModelShard(dir, { ...how, shard: options.shard });
      noteImportance(found!.report, context);
      progress.clear();
      await emitShard({ ...share, importance: found!.report }, out, context);
      return;
    }
    const report = await quantizeModel(dir, { ...how, resume });
    // Whatever fails from here on: no run goes on from it.
    if (keptIn !== undefined) await rm(keptIn, { force: true });
    const told = found!.report;
    noteImportance(told, context);
    const measured = text && (await measureLoss(dir, out, text, { runtime, signal, onProgress: progress.report }));
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
      { ...options, made: recipe, out, kept: options.out !== undefined, threads, backend },
      context,
    );
    await context.print(`${above}${below}${rendered}\n${pushed ? `\n${pushedText(pushed, options.out, context)}\n` : ''}`);
  };
  // Awaited, each of them: the backend goes when this function returns.
  if (!place) return await quantizeWith(undefined);
  const find = async (keepIn?: string) =>
    findImportance(dir, isIdle ? 'none' : source, { runtime, signal, onProgress: progress.report, keepIn });
  // Workers of one model may write beside one another: none keeps what it found.
  if (source === 'none' || isIdle || out === undefined || dryRun || options.shard !== undefined) return await quantizeWith(await find());
  await keepingImportance(out, { resume, overwrite }, async (keepIn) => quantizeWith(await find(keepIn), keepIn));
}

/** What is made of the methods of the command alone. Throws a UsageError. */
function checkPluginFlags(options: FilledOptions): void {
  const { method, saveRecipe } = options;
  if (typeof method === 'string') return;
  const module = methodText(method);
  if (hasTarget(options)) {
    throw new UsageError(
      `--target-bits and --target-size share out methods of lowbit, not ${module}`,
      'Leave them out, or -m and name what layers can get with --choices.',
    );
  }
  if (saveRecipe !== undefined) {
    throw new UsageError(`--save-recipe has no place for ${module}`, 'A recipe names methods of lowbit alone: leave it out.');
  }
}

/** What looks at the whole model has no place in a share of the work. Throws a UsageError. */
function checkShardFlags({ shard, dryRun, targetBits, targetSize, measure, push }: QuantizeOptions): void {
  if (shard === undefined) return;
  if (push !== undefined) {
    throw new UsageError(
      '--push sends a whole model, and --shard makes a share of one',
      'Merge the shares, then: lowbit push DIR ORG/NAME.',
    );
  }
  const others = [
    ['--dry-run', dryRun],
    ['--target-bits', targetBits],
    ['--target-size', targetSize],
    ['--measure', measure],
  ] as const;
  const other = others.find(([, value]) => value)?.[0];
  if (other === undefined) return;
  const hint = dryRun
    ? 'The plan is that of the whole model: leave --shard out.'
    : 'Run it once with --dry-run --json, and give the shares the bits that it finds as --rule.';
  throw new UsageError(`${other} looks at the whole model, and --shard does a share of it`, hint);
}

/** Threads are those of workers, too: backends that have no such setting are not bothered with it. */
function backendFlags({ backend = 'auto', threads }: FilledOptions): BackendFlags {
  return { backend, ...(backend === 'auto' || backend === 'cpu' ? { threads } : {}) };
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
