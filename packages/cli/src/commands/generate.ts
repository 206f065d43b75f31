// `lowbit generate`: continues a text.

import type { Context } from '../context.ts';
import { UsageError } from '../errors.ts';
import { readStdin } from '../files.ts';
import { loadModel } from '../load-model.ts';
import { type BackendFlags, checkBackendFlags, headOf, openBackend } from './backend.ts';
import { keepingTo, noteCutOff, schemaOf } from './json-schema.ts';
import { type SamplingOptions, samplingOf, statistics, stream } from './sampling.ts';

export interface GenerateOptions extends SamplingOptions, BackendFlags {
  /** `-` for stdin. */
  readonly prompt: string;
}

/** Runs the command. */
export async function generateCommand(path: string, options: GenerateOptions, context: Context): Promise<void> {
  const { signal, progress } = context;
  checkBackendFlags(options);
  const prompt = await promptOf(options.prompt, context);
  const schema = await schemaOf(options.jsonSchema);
  await using place = await openBackend(options, context);
  const model = await loadModel(path, {
    ...headOf(options),
    runtime: place.runtime,
    signal,
    onProgress: progress.report,
    onNote: context.note,
  });
  try {
    progress.clear();
    const result = await stream(model, { prompt, ...samplingOf(options), ...keepingTo(schema, model), signal }, context);
    if (result === undefined) return;
    noteCutOff(schema, result, context);
    const { text, ids, finishReason, usage, timings, seed } = result;
    if (context.json) await context.emit({ text, ids, finishReason, usage, timings, seed, backend: place.used() });
    else context.note(context.dim(statistics(result, place.used())));
  } finally {
    await model[Symbol.asyncDispose]();
  }
}

async function promptOf(text: string, context: Context): Promise<string> {
  if (text === '') throw new UsageError('--prompt is empty', 'Give a text to continue, or - to read it from stdin.');
  if (text !== '-') return text;
  if (process.stdin.isTTY) context.note('Reading the prompt from the terminal; end it with Ctrl-D.');
  const read = await readStdin(context.signal);
  if (read !== '') return read;
  throw new UsageError('stdin gave an empty prompt', 'Pipe a text into the command: echo "Once upon a time" | lowbit generate MODEL -p -');
}
