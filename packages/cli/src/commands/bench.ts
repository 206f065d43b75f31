// `lowbit bench`: tokens per second of a model, in llama-bench's names and columns.

import { cpus } from 'node:os';
import { availableThreads, isLowbitError, LowbitError } from '@lowbit/core';
import { type BenchResult, benchModel } from '@lowbit/models';
import type { CommonOptions, Context } from '../context.ts';
import { UsageError } from '../errors.ts';
import { loadModel } from '../load-model.ts';
import { findPlugins } from '../method-plugin.ts';
import { type OpenOptions, openModelFolder } from '../open.ts';
import type { BenchFormat } from '../parse.ts';
import type { BackendUse } from '../running-on.ts';
import { plain } from '../table.ts';
import { version } from '../version.ts';
import { type BackendFlags, checkBackendFlags, loadingOf, openBackend } from './backend.ts';
import { type BenchRow, type BenchSubject, benchRow, csvHead, csvRow, markdownHead, markdownRow } from './bench-rows.ts';
import { inspect } from './inspect.ts';

export interface BenchFlags extends CommonOptions, Omit<BackendFlags, 'threads'> {
  readonly nPrompt?: readonly number[];
  readonly nGen?: readonly number[];
  readonly pg?: readonly (readonly [number, number])[];
  readonly nDepth?: readonly number[];
  readonly threads?: readonly number[];
  readonly repetitions: number;
  readonly batchSize: number;
  readonly warmup: boolean;
  readonly output?: BenchFormat;
}

/** Runs the command. */
export async function benchCommand(path: string, flags: BenchFlags, context: Context): Promise<void> {
  const { json, signal, progress } = context;
  const { threads = [], output = json ? 'json' : 'md', nPrompt: prompt = [512], nGen: generate = [128], pg = [] } = flags;
  if (flags.json && output !== 'json') throw new UsageError(`--json and --output ${output} exclude each other`, 'Leave one of them out.');
  if (pg.length === 0 && [...prompt, ...generate].every((count) => count === 0)) {
    throw new UsageError('there is no test to run', 'Give a number of tokens above 0 to -p, -n or --pg.');
  }
  for (const count of threads.length > 0 ? threads : [undefined]) checkBackendFlags({ ...flags, threads: count });
  const about = await aboutModel(path, { signal, ...(await findPlugins(flags.plugin)) });
  const rows: BenchRow[] = [];
  let device = '';
  for (const count of threads.length > 0 ? threads : [undefined]) {
    await using place = await openBackend({ ...flags, threads: count }, context);
    await using model = await loadModel(path, {
      ...loadingOf(flags),
      ...place.plugins,
      runtime: place.runtime,
      prefillChunk: flags.batchSize,
      signal,
      onProgress: progress.report,
      onNote: context.note,
    });
    const use = place.used();
    device = use.device;
    const head = flags.headBits === undefined ? '' : ` + ${flags.headBits}-bit head`;
    const subject: BenchSubject = {
      ...about,
      ...computer(use, flags, count),
      model_type: about.model_type + head,
      n_batch: flags.batchSize,
    };
    await withFlags(
      benchModel(model, {
        ...{ prompt, generate, promptAndGenerate: pg, depth: flags.nDepth ?? [0] },
        repetitions: flags.repetitions,
        warmup: flags.warmup,
        signal,
        onProgress: progress.report,
        async onResult(result) {
          const row = benchRow(subject, result);
          rows.push(row);
          await show(row, result, { output, first: rows.length === 1 }, context);
        },
      }),
    );
    if (use.name === 'reference') break; // it has one thread, whatever was asked for
  }
  progress.clear();
  if (output === 'json') await context.emit(rows);
  if (output === 'md') await context.print(`\nbuild: lowbit ${version()}, ${plain(device)}\n`);
}

/** One test, when it has ended: who waits for a slow one sees the others. JSON is one value, in the end. */
async function show(
  row: BenchRow,
  { test }: BenchResult,
  { output, first }: { readonly output: BenchFormat; readonly first: boolean },
  context: Context,
): Promise<void> {
  if (output === 'md') await context.print(`${first ? markdownHead() : ''}${markdownRow(row, test)}`);
  if (output === 'csv') await context.print(`${first ? csvHead() : ''}${csvRow(row)}`);
  if (output === 'jsonl') await context.print(`${JSON.stringify(row)}\n`);
}

type About = Pick<BenchRow, 'build_version' | 'cpu_info' | 'model_filename' | 'model_type' | 'model_size' | 'model_n_params'>;

async function aboutModel(path: string, options: OpenOptions): Promise<About> {
  await using checkpoint = await openModelFolder(path, options);
  const { architecture, parameters, tensors, quantization } = await inspect(checkpoint);
  const weights = new Map<string, number>();
  for (const { tag, format, weights: count } of quantization.tags) {
    if (tag !== 'lm_head') weights.set(format, (weights.get(format) ?? 0) + count);
  }
  const formats = [...weights].sort(([, a], [, b]) => b - a).map(([format]) => format);
  const shown = formats.length > 2 ? [...formats.slice(0, 1), `${formats.length - 1} others`] : formats;
  return {
    build_version: version(),
    cpu_info: cpus()[0]?.model.trim() ?? process.arch,
    model_filename: path,
    model_type: [architecture.modelType ?? 'unknown', shown.join(' + ')].filter(Boolean).join(' '),
    model_size: tensors.bytes,
    model_n_params: parameters,
  };
}

/** What runs it. A backend that was given no threads and is not ours does not tell how many it has. */
function computer(
  { name, device, why }: BackendUse,
  { backend = 'auto', precision }: BenchFlags,
  threads: number | undefined,
): Pick<BenchSubject, 'backends' | 'device' | 'backend_why' | 'n_threads' | 'precision'> {
  const reference = name === 'reference';
  const native = !reference && (backend === 'auto' || backend === 'cpu');
  return {
    backends: name,
    device,
    backend_why: why,
    n_threads: reference ? 1 : (threads ?? (native ? availableThreads() : null)),
    precision: reference ? null : (precision ?? (native ? 'exact' : null)),
  };
}

/** The library does not know the flags. */
async function withFlags<T>(result: Promise<T>): Promise<T> {
  try {
    return await result;
  } catch (error) {
    if (!isLowbitError(error, 'ERR_LIMIT') || error.details.contextLength === undefined) throw error;
    const { message, details } = error;
    throw new LowbitError('ERR_LIMIT', message, {
      hint: `Use -p, -n and -d that add up to ${details.contextLength} or less.`,
      details,
      cause: error,
    });
  }
}
