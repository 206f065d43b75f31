// `lowbit compare`: what a model lost against the one that it was made from.

import { basename } from 'node:path';
import { bitsPerWeight, formatLabel } from '@lowbit/core';
import { type LinearError, loadTokenizer } from '@lowbit/models';
import type { CommonOptions, Context } from '../context.ts';
import { UsageError, withHint } from '../errors.ts';
import { checkWritable, readJsonFile, readTextFile, writeTextFile } from '../files.ts';
import { parseIds } from '../ids-file.ts';
import { compareLinears, compareModels, type ModelComparison } from '../measure.ts';
import { type OpenOptions, openModelFolder } from '../open.ts';
import type { BackendUse } from '../running-on.ts';
import { pairs, plain, table } from '../table.ts';
import { encodeText, type TextFile } from '../texts.ts';
import { bitsText, bytesText, countText, durationText } from '../units.ts';
import { type BackendFlags, checkBackendFlags, headOf, openBackend } from './backend.ts';
import { inspect } from './inspect.ts';

export interface CompareOptions extends CommonOptions, BackendFlags {
  readonly data?: string;
  readonly ids?: string;
  readonly ctx?: number;
  readonly stride?: number;
  readonly linears?: boolean;
  readonly out?: string;
  readonly overwrite?: boolean;
}

/** Size of one of the two folders. */
export interface ComparedSize {
  /** Of all tensors. */
  readonly bytes: number;
  readonly parameters: number;
  /** Bits per parameter, all tensors counted. */
  readonly bitsPerParameter: number;
  /** Bits per weight of quantized linears, scales, tables and padding included; null where there are none. */
  readonly bitsPerWeight: number | null;
}

/** One linear, as `--linears` lists it. */
export interface ComparedLinear extends Omit<LinearError, 'format'> {
  readonly format: string;
  readonly bitsPerWeight: number;
}

/** What `lowbit compare --json` prints. */
export interface CompareReport extends ModelComparison {
  readonly size: { readonly model: ComparedSize; readonly reference: ComparedSize };
  /** Name of the file of text or ids. */
  readonly text: string;
  /** With `--linears`: those that are not stored as in the reference. */
  readonly linears?: readonly ComparedLinear[];
  readonly ms: number;
  readonly backend: BackendUse;
}

/** Tokens whose inputs show what errors of a layer do at its output: of the text, as far as it goes. */
const LAYER_TOKENS = 512;
const SAMPLE = 256;

/** Runs the command. */
export async function compareCommand(path: string, reference: string, options: CompareOptions, context: Context): Promise<void> {
  // Read first: a wrong file should not cost loading models.
  const file = await readCompared('compare', options);
  await checkWritable(options.out, '--out', { replace: options.overwrite });
  await using place = await openBackend(options, context);
  const report = await compareReport(path, reference, file, options, place, context);
  context.progress.clear();
  if (options.out !== undefined) await writeTextFile(options.out, `${JSON.stringify(report, null, 2)}\n`, '--out');
  await (context.json ? context.emit(report) : context.print(`${render(report, context.bold)}\n`));
}

/** The text that the flags name. Throws a UsageError for flags that name none or two, and for files that cannot be read. */
export async function readCompared(command: string, options: CompareOptions): Promise<TextFile> {
  const { data, ids } = options;
  if ((data === undefined) === (ids === undefined)) {
    throw new UsageError(
      data === undefined ? `${command} needs a text` : '--data and --ids exclude each other',
      'Give either --data FILE (text) or --ids FILE (token ids as JSON).',
    );
  }
  checkBackendFlags(options);
  return data === undefined ? { ids: parseIds(await readJsonFile(ids!, '--ids'), ids!) } : { text: await readTextFile(data, '--data') };
}

/** Measures all that `lowbit compare --json` prints. */
export async function compareReport(
  path: string,
  reference: string,
  file: TextFile,
  options: CompareOptions,
  place: Awaited<ReturnType<typeof openBackend>>,
  context: Context,
): Promise<CompareReport> {
  const { ctx: contextLength, stride, linears: withLinears = false } = options;
  const started = performance.now();
  const { signal, progress, note } = context;
  const opening = { signal, ...place.plugins };
  const [model, original] = [await sizeOf(path, opening), await sizeOf(reference, opening)];
  if (model.bitsPerWeight === null && original.bitsPerWeight !== null) {
    note(
      `${plain(reference)} is quantized and ${plain(path)} is not: the first is compared with the second, so name what was made of a model first.`,
    );
  }
  const run = { ...place.plugins, runtime: place.runtime, signal, onProgress: progress.report };
  const measured = await withHint(
    () => compareModels(path, reference, file, { ...run, ...headOf(options), onNote: note, contextLength, stride }),
    (hint, { code, details }) =>
      code === 'ERR_LIMIT' && contextLength !== undefined && typeof details.contextLength === 'number'
        ? `Pass --ctx ${details.contextLength} or less.`
        : hint,
  );
  const linears = withLinears ? await errorsOfLinears(path, reference, file, run) : undefined;
  return {
    ...measured,
    size: { model, reference: original },
    text: basename((options.data ?? options.ids)!),
    ...(linears ? { linears } : {}),
    ms: performance.now() - started,
    backend: place.used(),
  };
}

async function sizeOf(path: string, options: OpenOptions): Promise<ComparedSize> {
  await using checkpoint = await openModelFolder(path, options);
  const { parameters, bitsPerParameter, tensors, quantization } = await inspect(checkpoint);
  return { bytes: tensors.bytes, parameters, bitsPerParameter, bitsPerWeight: quantization.bitsPerWeight };
}

async function errorsOfLinears(
  path: string,
  reference: string,
  file: TextFile,
  run: Omit<Parameters<typeof compareLinears>[2], 'ids'>,
): Promise<readonly ComparedLinear[]> {
  const errors = await compareLinears(path, reference, { ...run, ids: await samplesOf(reference, file, run) });
  return errors.map(({ format, ...rest }) => ({ ...rest, format: formatLabel(format), bitsPerWeight: bitsPerWeight(format, rest.shape) }));
}

/** The first tokens of the text, in samples that every model takes. */
async function samplesOf(
  reference: string,
  file: TextFile,
  { layouts, codecs, signal }: OpenOptions,
): Promise<readonly (readonly number[])[]> {
  let given = 'ids' in file ? file.ids : undefined;
  if (!given) {
    await using checkpoint = await openModelFolder(reference, { layouts, codecs, signal });
    given = encodeText(await loadTokenizer(checkpoint), (file as { readonly text: string }).text);
  }
  const samples: number[][] = [];
  let left = LAYER_TOKENS;
  for (const text of given.texts) {
    for (let from = 0; from < text.length && left > 0; from += SAMPLE) {
      const sample = text.slice(from, from + Math.min(SAMPLE, left));
      samples.push([...given.prefixIds, ...sample].slice(0, SAMPLE));
      left -= sample.length;
    }
  }
  return samples;
}

function render(report: CompareReport, bold: (text: string) => string): string {
  const { kl, klStderr, top1, top1Stderr, tokens, reference, model, size, linears, backend } = report;
  const start = report.startToken === null ? '' : `, each beginning with the start token ${report.startToken}`;
  const facts = pairs([
    ['KL', `${kl.toPrecision(4)} +- ${klStderr.toPrecision(2)} nats per token`],
    ['same first token', `${(100 * top1).toFixed(2)} % +- ${(100 * top1Stderr).toFixed(2)}`],
    [
      'perplexity',
      `${reference.perplexity.toFixed(4)} -> ${model.perplexity.toFixed(4)} (+- ${reference.stderr.toFixed(4)}, ${model.stderr.toFixed(4)})`,
    ],
    ['size', `${sizeText(size.reference)} -> ${sizeText(size.model)}`],
    ['tokens', `${countText(tokens)} scored`],
    ['windows', `${report.contextLength} tokens, moving on by ${report.stride}${start}`],
    ['time', durationText(report.ms)],
    ['backend', `${backend.name} (${backend.device})`],
  ]);
  return linears ? `${facts}\n\n${bold('Linears, worst outputs first')}\n${linearTable(linears)}` : facts;
}

function sizeText({ bytes, bitsPerParameter, bitsPerWeight: own }: ComparedSize): string {
  return `${bytesText(bytes)}, ${bitsText(bitsPerParameter)} bits a parameter${own === null ? '' : ` (${bitsText(own)} a quantized weight)`}`;
}

function linearTable(linears: readonly ComparedLinear[]): string {
  return table(
    [
      { title: 'linear' },
      { title: 'format' },
      { title: 'bits/weight', align: 'right' },
      { title: 'SNR, dB', align: 'right' },
      { title: 'output error', align: 'right' },
      { title: '+-', align: 'right' },
    ],
    [...linears]
      .sort((a, b) => b.outputError - a.outputError)
      .map(({ path, format, bitsPerWeight: bits, snrDb, outputError, outputErrorStderr }) => [
        plain(path),
        format,
        bitsText(bits),
        snrDb.toFixed(2),
        outputError.toPrecision(3),
        outputErrorStderr.toPrecision(2),
      ]),
  );
}
