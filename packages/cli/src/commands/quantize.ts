// `lowbit quantize`: a model folder into a smaller one, or with --dry-run the plan of it.

import { availableThreads, type Runtime } from '@lowbit/core';
import type { CommonOptions, Context } from '../context.ts';
import { asUsage, UsageError } from '../errors.ts';
import { checkWritable } from '../files.ts';
import { findImportance, type ImportanceReport, type ImportanceSource } from '../importance.ts';
import { measureLoss } from '../measure.ts';
import { idleSetting, makeQuantizer, makeRules } from '../methods.ts';
import {
  type Bits,
  type Dimension,
  type FloatDType,
  type Group,
  IMPORTANCE,
  type ImportanceFrom,
  type LayoutName,
  METHODS,
  type MethodName,
  type MethodSettings,
  parseUse,
  type QuantZero,
  type RuleText,
  type ScaleKind,
  SETTINGS,
  type Solver,
} from '../parse.ts';
import { bitsFact, filesTable, loads, quoted, ratio, total } from '../plan-text.ts';
import { PRESET, type PresetName, presetText } from '../presets.ts';
import { type ModelPlan, type PlanModelOptions, planModel, type QuantizeModelReport, quantizeModel } from '../quantize-model.ts';
import type { BackendUse } from '../running-on.ts';
import { pairs, plain } from '../table.ts';
import { tagTable } from '../tags.ts';
import { readNamed, readTexts } from '../texts.ts';
import { countText, durationText } from '../units.ts';
import {
  type AllocationFlags,
  allocate,
  allocationJson,
  checkFlags,
  choiceNames,
  renderAllocation,
  renderMeasured,
  sensitivityFrom,
} from './allocation.ts';
import { type BackendFlags, checkBackendFlags, openBackend } from './backend.ts';
import { preparePush, pushedText, type QuantizePushFlags } from './quantize-push.ts';

export interface QuantizeOptions extends CommonOptions, AllocationFlags, Pick<BackendFlags, 'backend'>, QuantizePushFlags {
  readonly out?: string;
  readonly method: MethodName;
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
  readonly rules: readonly RuleText[];
  readonly dtype?: FloatDType;
  readonly quantScale?: boolean;
  readonly quantZero?: QuantZero;
  readonly layout?: LayoutName;
  readonly maxMemory?: number;
  readonly threads?: number;
  readonly shardSize?: number;
  readonly dryRun?: boolean;
  readonly resume?: boolean;
  readonly overwrite?: boolean;
}

/** Threads are taken unasked up to here: each costs about 80 MB. */
const MOST_DEFAULT_THREADS = 8;

/** Runs the command. */
export async function quantizeCommand(dir: string, flags: QuantizeOptions, context: Context): Promise<void> {
  const options = withPreset(flags);
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
  checkFlags(options);
  checkBackendFlags({ backend: options.backend });
  const uses = [...options.rules.map(({ use }) => use), ...(options.choices ?? []).map(parseUse)];
  const settingsUsed = [options, ...uses.filter((use) => use !== 'keep')];
  const hasUse = settingsUsed.some(({ solver, scale }) => solver === 'least-squares' || scale === 'search');
  if (options.importance !== 'none' && !hasUse) {
    const from = typeof options.importance === 'string' ? options.importance : options.importance.file;
    throw new UsageError(`--importance ${from} needs --solver least-squares or --scale search`, 'Nothing else has a use for it.');
  }
  const settings = settingsOf(options);
  if (options.dtype === 'f32' && [options.method, ...uses.map((use) => (use === 'keep' ? undefined : use.method))].includes('higgs')) {
    throw new UsageError(
      'higgs stores scales and tables in 16 bits, so --dtype cannot be f32',
      'Use --dtype bf16 or f16, or leave it out.',
    );
  }
  checkSettings(options, settings);
  // Read first: a wrong file should not cost the work before.
  const pushing = await preparePush(options, context);
  const out = pushing?.out ?? options.out;
  const source = await sourceOf(options.importance);
  const text = options.measure === undefined ? undefined : await readTexts(options.measure, '--measure');
  await checkWritable(options.saveSensitivity, '--save-sensitivity');
  const { targetBits, dtype, layout } = options;
  const { signal, progress } = context;
  const given = makeRules(options.rules, settings);
  const from = targetBits === undefined ? {} : await sensitivityFrom(dir, options.sensitivity, signal);
  // What cannot be quantized is refused before anything is measured.
  if (targetBits !== undefined || (options.importance !== 'none' && !dryRun)) {
    const quantizer = targetBits === undefined ? makeQuantizer(options.method, settings) : 'keep';
    await planModel(dir, { quantizer, rules: given, dtype, layout: targetBits === undefined ? layout : undefined, signal });
  }
  // A plan needs headers alone.
  await using place = dryRun && targetBits === undefined ? undefined : await openBackend(backendFlags(options), context);
  const runtime = place?.runtime;
  const found = place && (await findImportance(dir, source, { runtime, signal, onProgress: progress.report }));
  const importance = found?.importance;
  const allocation =
    targetBits === undefined
      ? undefined
      : await allocate(
          dir,
          { ...options, targetBits },
          { method: options.method, settings, from, rules: given, dtype, layout, threads, runtime, importance },
          context,
        );
  const what: PlanModelOptions = {
    quantizer: makeQuantizer(options.method, settings),
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
      ? context.emit({ dryRun: true, ...plan, totalBytes: total(plan), ...shown, ...(preview ? { push: preview.json } : {}) })
      : context.print(`${above}${preview ? `${preview.text}\n` : ''}${renderPlan(plan, context)}\n`));
    return;
  }
  const routines = new Set<string>();
  const report = await quantizeModel(dir, {
    ...what,
    runtime: countedRoutines(place.runtime, routines),
    importance: importance ?? 'none',
    out,
    maxMemory,
    threads,
    resume,
    overwrite,
    allowNonFinite: options.allowNonFinite,
    onProgress: progress.report,
  });
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
    { ...options, out, kept: options.out !== undefined, threads, backend },
    context,
  );
  await context.print(`${above}${below}${rendered}\n${pushed ? `\n${pushedText(pushed, options.out, context)}\n` : ''}`);
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

/** What `--importance` names, read. */
async function sourceOf(from: ImportanceFrom): Promise<ImportanceSource> {
  if (typeof from === 'string') return from;
  const file = await readNamed(from.file, '--importance', IMPORTANCE);
  return 'ids' in file ? { ids: file.ids.texts } : file;
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
function backendFlags({ backend = 'auto', threads }: QuantizeOptions): BackendFlags {
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

/** What a preset sets, where a flag does not say otherwise. */
function withPreset(given: QuantizeOptions): QuantizeOptions & { readonly importance: ImportanceFrom } {
  const { preset, method } = given;
  if (preset === undefined) return { ...given, importance: given.importance ?? 'none' };
  if (method !== 'hqq') throw new UsageError(`--preset is for hqq, not for ${method}`, 'Leave it out.');
  const { solver, importance } = PRESET[preset];
  return { ...given, solver: given.solver ?? solver, importance: given.importance ?? importance };
}

/** Makes the quantizers once for nothing: what they refuse without having seen a model is wrong usage. Throws a UsageError. */
function checkSettings({ method, rules }: QuantizeOptions, settings: MethodSettings): void {
  asUsage(() => makeQuantizer(method, settings));
  for (const rule of rules) {
    asUsage(() => makeRules([rule], settings), `--rule ${rule.match}: `);
  }
}

/** Flags by the settings that they are for. */
const FLAGS: Readonly<Record<keyof MethodSettings, string>> = {
  bits: '--bits',
  group: '--group',
  axis: '--axis',
  solver: '--solver',
  quantScale: '--quant-scale',
  quantZero: '--quant-zero',
  doubleQuant: '--double-quant',
  scale: '--scale',
  threshold: '--threshold',
  p: '--p',
  hadamardSize: '--hadamard-size',
  computeDtype: '--compute-dtype',
  allowNonFinite: '--allow-non-finite',
};

/** The settings that the flags give. Throws a UsageError for a flag that no method of the command has a use for. */
function settingsOf({ method, rules, targetBits, ...flags }: QuantizeOptions): MethodSettings {
  const { bits, group, axis, solver, quantScale, quantZero, doubleQuant, scale, threshold, computeDtype, allowNonFinite, p, hadamardSize } =
    flags;
  const settings: MethodSettings = {
    ...{ bits, group, axis, solver, quantScale, quantZero },
    ...{ doubleQuant, scale, threshold, computeDtype, allowNonFinite },
    ...{ p, hadamardSize },
  };
  const uses = [...rules.map(({ use }) => use), ...(targetBits === undefined ? [] : choiceNames(flags, method, settings).map(parseUse))];
  const methods = [method, ...uses.flatMap((use) => (use === 'keep' ? [] : [use.method]))];
  const idle = idleSetting(methods, settings);
  if (idle === undefined) return settings;
  const owners = METHODS.filter((name) => SETTINGS[name].includes(idle)).join(', ');
  const own = SETTINGS[method].map((name) => FLAGS[name]).join(', ');
  throw new UsageError(
    `${FLAGS[idle]} is for ${owners}, not for ${method}`,
    `${method} takes ${own}. Leave ${FLAGS[idle]} out, or choose the method with --method.`,
  );
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
  /** False where the folder was removed after a push. */
  readonly kept: boolean;
  readonly preset?: PresetName;
  readonly solver?: Solver;
  readonly threads: number;
  readonly backend: BackendUse & { readonly routines: readonly string[] };
}

function renderReport(
  report: QuantizeModelReport,
  { out, kept, preset, solver, threads, backend }: ReportSettings,
  { bold }: Context,
): string {
  const { summary, weightError } = report;
  const facts: [string, string][] = [
    ['layers', `${summary.quantizedLinears} of ${summary.linears} quantized`],
    ['bits per weight', bitsFact(summary)],
    ['weights', ratio(report.weightBytes)],
  ];
  if (preset !== undefined) facts.push(['preset', presetText(preset, solver, report.importance?.from ?? 'none')]);
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
