// What `lowbit quantize` says to people: remarks, the plan, and what was done.

import { isAbsolute } from 'node:path';
import { NATIVE_REMEDY } from '../backends.ts';
import type { Context } from '../context.ts';
import type { ImportanceReport } from '../importance.ts';
import type { MethodChoice } from '../parse.ts';
import { bitsFact, filesTable, loads, quoted, ratio } from '../plan-text.ts';
import { presetOf, presetText } from '../preset-of.ts';
import type { PresetName } from '../presets.ts';
import type { ModelPlan, QuantizeModelReport } from '../quantize-model.ts';
import type { Recipe } from '../recipe.ts';
import type { BackendUse } from '../running-on.ts';
import { pairs, plain } from '../table.ts';
import { tagTable } from '../tags.ts';
import { bytesText, countText, durationText } from '../units.ts';

/** Remarks on what was or will be made. */
export function notePlan(plan: ModelPlan, context: Context): void {
  for (const note of plan.notes) context.note(plain(note));
  noteFilled(plan, context);
  noteWide(plan, context);
  noteByName(plan, context);
  noteCopy(plan, context);
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

/** hqq stores codes of 5 and 6 bits in a byte each. */
function noteWide({ tags }: Pick<ModelPlan, 'tags'>, context: Context): void {
  const wide = tags.find(({ format }) => /^[567]-bit /.test(format));
  if (!wide) return;
  context.note(
    `${wide.tag}: ${wide.format[0]}-bit codes are stored in 8 bits each, as in hqq. 8 bits take the same room with a smaller error.`,
  );
}

/** A copy may be what is wanted, but hardly by this command. */
function noteCopy({ summary }: Pick<ModelPlan, 'summary'>, context: Context): void {
  if (summary.quantizedLinears > 0) return;
  context.note('No linear is quantized: --skip and --rule keep all of them, so the result is a plain copy.');
}

function noteByName({ byName }: Pick<ModelPlan, 'byName'>, context: Context): void {
  if (byName === null) return;
  context.note(
    `model_type ${plain(byName)} is not known here: linears were found by the names and shapes of their tensors, and nothing of lowbit runs the result. --dry-run lists them, --skip and --rule choose.`,
  );
}

/** Importance reads a model as a whole: one of the Hub, which would be quantized while it is fetched, has to be here for it. `source` is that of a plan. */
export function noteFetch(source: string, bytes: number, context: Context): void {
  if (isAbsolute(source)) return; // a folder, or in the cache
  context.note(
    `${plain(source)} is fetched into the cache first, ${bytesText(bytes)} of weights, for the model is read as a whole to find which channels matter. With --importance none it is quantized while it is fetched.`,
  );
}

/** A target of files may hold the model as it is: `bytes` of weights, before. */
export function noteFitting(targetSize: number | undefined, bytes: number, context: Context): void {
  if (targetSize === undefined || targetSize < bytes) return;
  context.note(
    `The weights take ${countText(bytes)} bytes as they are, which --target-size ${countText(targetSize)} holds: nothing has to be quantized for it.`,
  );
}

export function noteSlow(context: Context): void {
  context.note(
    `Least squares and random tokens take many times as long in TypeScript. ${NATIVE_REMEDY} -m hqq takes less time and loses more.`,
  );
}

export function noteImportance({ from, why, estimated, unread = [] }: ImportanceReport, context: Context): void {
  if (why !== null) {
    const instead = from === 'weights' ? 'an estimate from its weights is used' : 'every channel counts alike';
    context.note(`${plain(why)}, so ${instead} (--importance ${from}).`);
  }
  if (estimated.length > 0) context.note(`No token reached ${someOf(estimated)}: their importance is estimated from weights.`);
  if (unread.length > 0)
    context.note(`No text runs through ${someOf(unread)}: they go without feedback, and every channel counts alike there.`);
}

function someOf(paths: readonly string[]): string {
  return `${paths.slice(0, 3).map(plain).join(', ')}${paths.length > 3 ? ` and ${paths.length - 3} more` : ''}`;
}

/** The plan for people. */
export function renderPlan(plan: ModelPlan, { bold }: Context): string {
  const { summary } = plan;
  const facts = pairs([
    ['linears', `${summary.quantizedLinears} of ${summary.linears} quantized`],
    ['bits per weight', bitsFact(summary)],
    ['weights', ratio(plan.weightBytes)],
  ]);
  return [
    `${bold('Files')}\n${filesTable(plan)}`,
    `${bold('Linears')}\n${tagTable(plan.tags)}`,
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
  /** What bits were shared out by, where layers are not quantized by it. */
  readonly sharing: ImportanceReport | undefined;
  /** What finding importance took, beside `ms` of the report. */
  readonly findingMs: number;
  readonly backend: BackendUse & { readonly routines: readonly string[] };
}

/** What was done, for people. */
export function renderReport(
  report: QuantizeModelReport,
  { out, method, kept, preset, recipe, made, threads, sharing, findingMs, backend }: ReportSettings,
  { bold }: Context,
): string {
  const { summary, weightError } = report;
  const facts: [string, string][] = [
    ['linears', `${summary.quantizedLinears} of ${summary.linears} quantized`],
    ['bits per weight', bitsFact(summary)],
    ['weights', ratio(report.weightBytes)],
  ];
  const named = preset ?? (recipe === undefined && made !== undefined ? presetOf(made) : undefined);
  if (named !== undefined && made !== undefined) facts.push(['preset', presetText(named, made, report.importance?.from ?? 'none')]);
  if (recipe !== undefined) facts.push(['recipe', recipe]);
  if (summary.quantizedLinears > 0) {
    facts.push(['weight error', `${weightError.toPrecision(3)} of the squared weights (${signal(weightError)})`]);
    facts.push(['worst linears', worst(report).join(', ')]);
    const left = report.linears.filter(({ nonFinite = 0 }) => nonFinite > 0);
    if (left.length > 0) facts.push(['NaN, infinity', spoilt(left)]);
  }
  if (report.importance && (report.importance.from !== 'none' || report.importance.why !== null))
    facts.push([
      'importance',
      `${importanceText(report.importance)}${sharing ? `; bits were shared out by ${importanceText(sharing)}` : ''}`,
    ]);
  const finding = report.importance !== null && report.importance.from !== 'none' ? `, and ${durationText(findingMs)} for importance` : '';
  facts.push([
    'time',
    `${durationText(report.ms)}${finding}${report.resumed > 0 ? `; ${report.resumed} units were done by an earlier run` : ''}`,
  ]);
  facts.push(['computed by', computedBy(backend, threads)]);
  const hasTokenizer = report.files.some(({ name }) => name === 'tokenizer.json');
  // A model with NaN in it gives NaN.
  const runs = hasTokenizer && !report.linears.some(({ nonFinite = 0 }) => nonFinite > 0);
  const by = typeof method === 'string' ? '' : ` --plugin ${quoted(method.module)}`;
  const next = runs ? `lowbit generate ${quoted(out)}${by} -p "Once upon a time"` : `lowbit inspect ${quoted(out)}${by}`;
  const wrote = kept ? `Wrote ${bold(plain(report.out))}` : `Quantized ${bold(plain(report.source))}`;
  return [wrote, pairs(facts), loads(report, bold), kept && `${bold('Next:')} ${next}`].filter(Boolean).join('\n\n');
}

function importanceText({ from, tokens, estimated }: ImportanceReport): string {
  if (from === 'none') return 'none: every channel counts alike';
  if (from === 'weights') return 'estimated from weights';
  const what = from === 'self' ? 'tokens that the model wrote' : from === 'text' ? 'tokens of the text' : 'random tokens';
  return `${countText(tokens)} ${what}${estimated.length > 0 ? `; ${estimated.length} linears estimated from weights` : ''}`;
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
