// `lowbit estimate`: what a model will take, before anything is loaded or quantized.

import type { Format } from '@lowbit/core';
import { DEFAULT_MAX_MEMORY, planQuantization, type StoredCheckpoint } from '@lowbit/hub';
import { defaultAdapters, estimateMemory, type MemoryEstimate, type Verdict } from '@lowbit/models';
import type { CommonOptions, Context } from '../context.ts';
import { asUsage, UsageError } from '../errors.ts';
import { type MeasuredMemory, type MeasureMemoryOptions, measureMemory } from '../measured-memory.ts';
import { idleSettings, makeQuantizer } from '../methods.ts';
import { openModel, openModelFolder, placeOf } from '../open.ts';
import type { MethodName, MethodSettings } from '../parse.ts';
import { pairs, plain } from '../table.ts';
import { bytesText, countText } from '../units.ts';
import { type BackendFlags, checkBackendFlags, headOf, openBackend } from './backend.ts';

export interface EstimateFlags extends CommonOptions, BackendFlags, Pick<MethodSettings, 'bits' | 'group' | 'p' | 'hadamardSize'> {
  readonly method?: MethodName;
  readonly ctx?: number;
  readonly sequences?: number;
  readonly measure?: boolean;
}

/** What `lowbit estimate --json` prints. Bytes. */
export interface EstimateReport extends MemoryEstimate {
  readonly path: string;
  /** What the folder would be quantized with first; null: as it is. */
  readonly method: string | null;
  /** Of the safetensors files, as they are or would be. */
  readonly disk: number;
  /** Weights and results that `lowbit quantize` holds at a time, by default; null where nothing is to be quantized. */
  readonly quantizing: number | null;
  /** What this process takes, without any model. */
  readonly process: number;
  /** With `--measure`. */
  readonly measured?: MeasuredMemory;
}

const FLAG: Readonly<Partial<Record<keyof MethodSettings, string>>> = {
  bits: '--bits',
  group: '--group',
  p: '--p',
  hadamardSize: '--hadamard-size',
};

/** Runs the command. */
export async function estimateCommand(path: string, flags: EstimateFlags, context: Context): Promise<void> {
  const { method, bits, group, p, hadamardSize, ctx: contextLength, sequences } = flags;
  checkBackendFlags(flags);
  const settings = { bits, group, p, hadamardSize };
  const [idle] = idleSettings(method === undefined ? [] : [method], settings);
  if (idle !== undefined) {
    if (method === undefined)
      throw new UsageError(`${FLAG[idle] ?? idle} needs --method`, 'Name the method that the model would be quantized with: -m hqq -b 4.');
    throw new UsageError(`${FLAG[idle] ?? idle} is not a setting of ${method}`, 'Leave it out.');
  }
  if (flags.measure && method !== undefined)
    throw new UsageError(
      '--measure loads the model as it is, so it cannot go with --method',
      'Quantize the model first, and measure what was made.',
    );
  if (flags.measure && sequences !== undefined && sequences > 1) throw new UsageError('--measure reads one text', 'Leave --sequences out.');
  await using place = await openBackend(flags, context, { doing: flags.measure ? 'running' : 'estimating' });
  const { allowNonFinite, ...head } = headOf(flags);
  const { signal, progress } = context;
  const opening = { signal, allowNonFinite, onProgress: progress.report, ...place.plugins };
  await using checkpoint = flags.measure ? await openModelFolder(path, opening) : await openModel(path, opening);
  const planned = method === undefined ? undefined : await plan(checkpoint, method, settings);
  const here = place.used().name === 'cpu' || place.used().name === 'reference';
  const estimate = await estimateMemory(checkpoint, {
    ...head,
    ...(contextLength === undefined ? {} : { contextLength }),
    ...(sequences === undefined ? {} : { sequences }),
    ...(planned ? { formatOf: (site: string) => planned.formats.get(site) } : {}),
    ...(here ? { available: process.availableMemory() } : {}),
    runtime: place.runtime,
    signal,
  });
  const report: EstimateReport = {
    path: placeOf(checkpoint),
    method: planned?.name ?? null,
    ...estimate,
    disk: planned?.disk ?? checkpoint.source.files.reduce((sum, { size }) => sum + size, 0),
    quantizing: planned ? DEFAULT_MAX_MEMORY : null,
    process: process.memoryUsage.rss(),
    ...(flags.measure ? { measured: await measure(checkpoint, estimate, { ...head, runtime: place.runtime }, context) } : {}),
  };
  progress.clear();
  await (context.json ? context.emit(report) : context.print(`${render(report, context.bold)}\n`));
}

async function measure(
  checkpoint: StoredCheckpoint,
  { contextLength }: MemoryEstimate,
  options: Pick<MeasureMemoryOptions, 'runtime' | 'head'>,
  { signal, progress }: Context,
): Promise<MeasuredMemory> {
  return measureMemory(checkpoint, { ...options, contextLength, signal, onProgress: progress.report });
}

async function plan(checkpoint: StoredCheckpoint, method: MethodName, settings: MethodSettings) {
  const quantizer = asUsage(() => makeQuantizer(method, settings));
  const { plan, files } = await planQuantization(checkpoint, { quantizer, adapters: defaultAdapters });
  const formats = new Map<string, Format>(plan.linears.flatMap(({ site, format }) => (format ? [[site.path, format] as const] : [])));
  const disk = files.reduce((sum, { name, bytes }) => sum + (name.endsWith('.safetensors') ? bytes : 0), 0);
  return { name: method, formats, disk };
}

const VERDICTS: Readonly<Record<Verdict, string>> = {
  fits: 'fits',
  tight: 'tight: more than 80 % of what is available',
  no: 'does not fit: take fewer bits, a shorter --ctx, fewer --sequences, or --head-bits 8',
  unknown: 'unknown: the device does not say how much memory it has',
};

/** Padding is worth a word from here on. */
const MUCH_PADDING = 1.02;

function render(report: EstimateReport, bold: (text: string) => string): string {
  const { weights, packed, constants, kvCache, activations, total, available, contextLength, sequences, backend, device, measured } =
    report;
  const padded =
    weights > MUCH_PADDING * packed ? ` (${bytesText(packed)} and ${bytesText(weights - packed)} of padding and wider scales)` : '';
  const room = report.counted || backend === 'reference' ? '' : ' (rows alone: the backend does not say what it needs beside them)';
  const texts = sequences === 1 ? '' : ` x ${sequences} texts`;
  return pairs([
    ['backend', `${backend} (${device})`],
    ['on disk', bytesText(report.disk)],
    ['weights', bytesText(weights) + padded],
    ['norms', bytesText(constants)],
    ['keys and values', `${bytesText(kvCache)} (${countText(contextLength)} tokens${texts})`],
    ['activations', bytesText(activations) + room],
    ['in all', bold(bytesText(total))],
    ...(available === undefined ? [] : [['available', bytesText(available)] as const]),
    ['verdict', report.reason === undefined ? VERDICTS[report.verdict] : `does not run: ${plain(report.reason)}`],
    ...(report.quantizing === null ? [] : [['quantizing', `${bytesText(report.quantizing)} at a time (--max-memory)`] as const]),
    ['this process', `${bytesText(report.process)} without the model`],
    ...(measured ? [['measured', measuredText(measured)] as const] : []),
  ]);
}

/** Of resident memory what came with the model: a process is there before it. */
function measuredText({ tokens, counted, rss: { before, loaded, most } }: MeasuredMemory): string {
  const grown = `${bytesText(Math.max(0, loaded - before))} resident with the model loaded, ${bytesText(Math.max(0, most - before))} at most`;
  return `${grown}; the backend counted ${bytesText(counted)} after ${countText(tokens)} tokens`;
}
