// `lowbit quantize`: a model folder into a smaller one, or with --dry-run the plan of it.

import { availableThreads, type Runtime } from '@lowbit/core';
import { checkOutputFree } from '@lowbit/hub';
import type { CommonOptions, Context } from '../context.ts';
import { UsageError } from '../errors.ts';
import { checkWritable } from '../files.ts';
import { type FoundImportance, findImportance, type ImportanceReport } from '../importance.ts';
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
import { bitsFact, filesTable, loads, quoted, ratio, total } from '../plan-text.ts';
import { type PresetName, presetText } from '../presets.ts';
import {
  type ModelPlan,
  type PlanModelOptions,
  planModel,
  type QuantizeModelReport,
  quantizeModel,
  quantizeModelShard,
} from '../quantize-model.ts';
import { importanceSource, type Recipe, writeRecipe } from '../recipe.ts';
import type { BackendUse } from '../running-on.ts';
import { pairs, plain } from '../table.ts';
import { tagTable } from '../tags.ts';
import { readTexts } from '../texts.ts';
import { countText, durationText } from '../units.ts';
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
import { emitShard } from './merge-shards.ts';
import { chosenMethod } from './method-flags.ts';
import { preparePush, pushedText, type QuantizePushFlags } from './quantize-push.ts';
import { type FilledOptions, hasTarget, methodText, recipeMade, withRecipe } from './quantize-recipe.ts';

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
  const options = await withRecipe(flags);
  const {
    dryRun = false,
    maxMemory,
    threads = Math.min(MOST_DEFAULT_THREADS, availableThreads()),
    resume = false,
    overwrite = false,
  } = options;
  if (options.out === undefined && options.push === undefined && !dryRun) {
    throw new UsageError(
      'quantize needs an output folder',
      'Name a new one with --out DIR, a repository with --push ORG/NAME, or pass --dry-run to see what would be written.',
    );
  }
  checkShardFlags(options);
  checkPluginFlags(options);
  checkFlags(options);
  checkBackendFlags({ backend: options.backend });
  const uses = [...options.rules.map(({ use }) => use), ...(options.choices ?? []).map(parseUse)];
  const settingsUsed = [options, ...uses.filter((use) => use !== 'keep')];
  if (options.importance !== 'none' && !settingsUsed.some(usesImportance)) {
    const from = typeof options.importance === 'string' ? options.importance : options.importance.file;
    throw new UsageError(`--importance ${from} needs --solver least-squares or --scale search`, 'Nothing else has a use for it.');
  }
  const { settings, ofRules, quantizer, parts } = await chosenMethod(options);
  if (options.dtype === 'f32' && [options.method, ...uses.map((use) => (use === 'keep' ? undefined : use.method))].includes('higgs')) {
    throw new UsageError(
      'higgs stores scales and tables in 16 bits, so --dtype cannot be f32',
      'Use --dtype bf16 or f16, or leave it out.',
    );
  }
  // Read first: a wrong file should not cost the work before.
  const source = await importanceSource(options.importance, '--importance');
  const pushing = await preparePush(options, context);
  const out = pushing?.out ?? options.out;
  if (out !== undefined && !dryRun && options.shard === undefined) await checkOutputFree(out, { resume, overwrite });
  const text = options.measure === undefined ? undefined : await readTexts(options.measure, '--measure');
  await checkWritable(options.saveSensitivity, '--save-sensitivity');
  await checkWritable(options.saveRecipe, '--save-recipe');
  const { dtype, layout, method } = options;
  const isShared = hasTarget(options);
  const { signal, progress } = context;
  const given = makeRules(options.rules, ofRules);
  const from = isShared ? await sensitivityFrom(dir, options.sensitivity, signal) : {};
  // What cannot be quantized is refused before anything is measured.
  if (isShared || (options.importance !== 'none' && !dryRun)) {
    await planModel(dir, {
      ...parts,
      quantizer: isShared ? 'keep' : quantizer(),
      rules: given,
      dtype,
      layout: isShared ? undefined : layout,
      signal,
    });
  }
  // A plan needs headers alone.
  await using place = dryRun && !isShared ? undefined : await openBackend(backendFlags(options), context);
  const runtime = place?.runtime;
  const quantizeWith = async (found: FoundImportance | undefined): Promise<void> => {
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
      noteFilled(plan, context);
      noteByName(plan, context);
      noteCopy(plan, context);
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
      maxMemory,
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
    const told = found!.report;
    noteImportance(told, context);
    const measured = text && (await measureLoss(dir, out, text, { runtime, signal, onProgress: progress.report }));
    const pushed = await pushing?.finish(report);
    progress.clear();
    noteFilled(report, context);
    noteByName(report, context);
    noteCopy(report, context);
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
  const find = async (keepIn?: string) => findImportance(dir, source, { runtime, signal, onProgress: progress.report, keepIn });
  // Workers of one model may write beside one another: none keeps what it found.
  if (source === 'none' || out === undefined || dryRun || options.shard !== undefined) return await quantizeWith(await find());
  await keepingImportance(out, { resume, overwrite }, async (keepIn) => quantizeWith(await find(keepIn)));
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

/** HIGGS fills rows up to multiples of what it rotates at once: a fifth more bits than its codes and scales need are worth a word. */
function noteFilled({ tags }: Pick<ModelPlan, 'tags'>, context: Context): void {
  const filled = tags.flatMap(({ tag, format, bitsPerWeight }) => {
    const [, bits, group, block] = /^higgs-(\d)-\d g(\d+) h(\d+)/.exec(format) ?? [];
    return bits && bitsPerWeight > 1.2 * (Number(bits) + 16 / Number(group)) ? [{ tag, bitsPerWeight, block }] : [];
  });
  const worst = filled.sort((a, b) => b.bitsPerWeight - a.bitsPerWeight)[0];
  if (!worst) return;
  context.note(
    `${worst.tag} takes ${worst.bitsPerWeight.toFixed(2)} bits per weight: its rows are filled up to multiples of ${worst.block}. A smaller --hadamard-size may fill up less.`,
  );
}

/** A copy may be what is wanted, but hardly by this command. */
function noteCopy({ summary }: Pick<ModelPlan, 'summary'>, context: Context): void {
  if (summary.quantizedLinears > 0) return;
  context.note('No layer is quantized: --skip and --rule keep all of them, so the result is a plain copy.');
}

function noteByName({ byName }: Pick<ModelPlan, 'byName'>, context: Context): void {
  if (byName === null) return;
  context.note(
    `model_type ${plain(byName)} is not known here: layers were found by the names and shapes of their tensors, and nothing of lowbit runs the result. --dry-run lists them, --skip and --rule choose.`,
  );
}

function noteImportance({ from, why, estimated }: ImportanceReport, context: Context): void {
  if (why !== null) {
    const instead = from === 'weights' ? 'an estimate from its weights is used' : 'every channel counts alike';
    context.note(`${plain(why)}, so ${instead} (--importance ${from}).`);
  }
  if (estimated.length === 0) return;
  const others = estimated.length > 3 ? ` and ${estimated.length - 3} more` : '';
  context.note(`No token reached ${estimated.slice(0, 3).map(plain).join(', ')}${others}: their importance is estimated from weights.`);
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

function renderPlan(plan: ModelPlan, { bold }: Context): string {
  const { summary } = plan;
  const facts = pairs([
    ['layers', `${summary.quantizedLinears} of ${summary.linears} quantized`],
    ['bits per weight', bitsFact(summary)],
    ['weights', ratio(plan.weightBytes)],
  ]);
  return [
    `${bold('Files')}\n${filesTable(plan)}`,
    `${bold('Linear layers')}\n${tagTable(plan.tags)}`,
    facts,
    loads(plan, bold),
    'Nothing was written (--dry-run).',
  ]
    .filter(Boolean)
    .join('\n\n');
}

interface ReportSettings {
  readonly out: string;
  readonly method: MethodChoice;
  /** False where the folder was removed after a push. */
  readonly kept: boolean;
  readonly preset?: PresetName;
  readonly recipe?: string;
  readonly made: Recipe | undefined;
  readonly threads: number;
  readonly backend: BackendUse & { readonly routines: readonly string[] };
}

function renderReport(
  report: QuantizeModelReport,
  { out, method, preset, recipe, made, threads, backend }: ReportSettings,
  { out, kept, preset, solver, threads, backend }: ReportSettings,
  { bold }: Context,
): string {
  const { summary, weightError } = report;
  const facts: [string, string][] = [
    ['layers', `${summary.quantizedLinears} of ${summary.linears} quantized`],
    ['bits per weight', bitsFact(summary)],
    ['weights', ratio(report.weightBytes)],
  ];
  if (preset !== undefined && made !== undefined) facts.push(['preset', presetText(preset, made, report.importance?.from ?? 'none')]);
  if (recipe !== undefined) facts.push(['recipe', recipe]);
  if (summary.quantizedLinears > 0) {
    facts.push(['weight error', `${weightError.toPrecision(3)} of the squared weights (${signal(weightError)})`]);
    facts.push(['worst layers', worst(report).join(', ')]);
    const left = report.linears.filter(({ nonFinite = 0 }) => nonFinite > 0);
    if (left.length > 0) facts.push(['NaN, infinity', spoilt(left)]);
  }
  if (report.importance && report.importance.from !== 'none') facts.push(['importance', importanceText(report.importance)]);
  facts.push(['time', `${durationText(report.ms)}${report.resumed > 0 ? `; ${report.resumed} units were done by an earlier run` : ''}`]);
  facts.push(['computed by', computedBy(backend, threads)]);
  const hasTokenizer = report.files.some(({ name }) => name === 'tokenizer.json');
  // A model with NaN in it gives NaN.
  const runs = hasTokenizer && !report.linears.some(({ nonFinite = 0 }) => nonFinite > 0);
  const by = typeof method === 'string' ? '' : ` --plugin ${quoted(method.module)}`;
  const next = runs ? `lowbit generate ${quoted(out)}${by} -p "Once upon a time"` : `lowbit inspect ${quoted(out)}${by}`;
  return [`Wrote ${bold(plain(report.out))}`, pairs(facts), loads(report, bold), `${bold('Next:')} ${next}`].filter(Boolean).join('\n\n');
  const next = runs ? `lowbit generate ${quoted(out)} -p "Once upon a time"` : `lowbit inspect ${quoted(out)}`;
  const wrote = kept ? `Wrote ${bold(plain(report.out))}` : `Quantized ${bold(plain(report.source))}`;
  return [wrote, pairs(facts), loads(report, bold), kept && `${bold('Next:')} ${next}`].filter(Boolean).join('\n\n');
}

function importanceText({ from, tokens, estimated }: ImportanceReport): string {
  if (from === 'weights') return 'estimated from weights';
  const what = from === 'self' ? 'tokens that the model wrote' : from === 'text' ? 'tokens of the text' : 'random tokens';
  return `${countText(tokens)} ${what}${estimated.length > 0 ? `; ${estimated.length} layers estimated from weights` : ''}`;
}

/** What the routines of the methods ran on; the bytes are the same. */
function computedBy({ name, device, routines }: ReportSettings['backend'], threads: number): string {
  if (routines.length > 0) return `backend ${name} (${device}): ${routines.join(', ')}`;
  return threads === 1 ? 'TypeScript, one thread' : `TypeScript, ${threads} threads`;
}

/** 10 log10(sum w^2 / sum error^2). */
function signal(weightError: number): string {
  return weightError > 0 ? `SNR ${(-10 * Math.log10(weightError)).toFixed(1)} dB` : 'exact';
}

function worst({ linears }: QuantizeModelReport): string[] {
  return linears
    .map(({ path, squaredError, squaredWeight }) => ({ path, error: squaredWeight > 0 ? squaredError / squaredWeight : 0 }))
    .sort((a, b) => b.error - a.error)
    .slice(0, 3)
    .map(({ path, error }) => `${path} (${error.toPrecision(3)})`);
}

/** What the weight error says nothing of. */
function spoilt(linears: QuantizeModelReport['linears']): string {
  const count = linears.reduce((sum, { nonFinite = 0 }) => sum + nonFinite, 0);
  const [first] = linears;
  const where = `${plain(first!.path)}${linears.length > 1 ? ` and ${linears.length - 1} more` : ''}`;
  return `${countText(count)} weights of ${where} are stored as NaN or infinity, and not in the weight error`;
}
