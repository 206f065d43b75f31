// `lowbit generate`: continues a text.

import type { LanguageModel } from '@lowbit/models';
import type { Context } from '../context.ts';
import { CutOffError, UsageError } from '../errors.ts';
import { readBytes, readStdin } from '../files.ts';
import { loadModel } from '../load-model.ts';
import { plain } from '../table.ts';
import { type BackendFlags, checkBackendFlags, loadingOf, openBackend } from './backend.ts';
import { keepingTo, schemaOf } from './json-schema.ts';
import { type SamplingOptions, samplingOf, statistics, stream } from './sampling.ts';

export interface GenerateOptions extends SamplingOptions, BackendFlags {
  /** `-` for stdin. */
  readonly prompt: string;
  /** Files, one for each placeholder of the prompt. */
  readonly image?: readonly string[];
}

/** Runs the command. */
export async function generateCommand(path: string, options: GenerateOptions, context: Context): Promise<void> {
  const { signal, progress } = context;
  checkBackendFlags(options);
  const prompt = await promptOf(options.prompt, context);
  const schema = await schemaOf(options.jsonSchema);
  // Read first: a wrong path should not cost the loading of a model.
  const images = await Promise.all((options.image ?? []).map((file) => readBytes(file, '--image')));
  await using place = await openBackend(options, context);
  const model = await loadModel(path, {
    ...loadingOf(options),
    ...place.plugins,
    firstPrompt: prompt,
    runtime: place.runtime,
    signal,
    onProgress: progress.report,
    onNote: context.note,
  });
  try {
    progress.clear();
    const text = images.length > 0 ? withPlaceholders(prompt, images.length, model, context) : prompt;
    const result = await stream(model, { prompt: text, images, ...samplingOf(options), ...keepingTo(schema, model), signal }, context);
    if (result === undefined) return;
    const { text: continued, ids, finishReason, usage, timings, seed } = result;
    if (context.json) await context.emit({ text: continued, ids, finishReason, usage, timings, seed, backend: place.used() });
    else context.note(context.dim(statistics(result, place.used())));
    if (schema !== undefined && finishReason !== 'stop') throw new CutOffError(finishReason);
  } finally {
    await model[Symbol.asyncDispose]();
  }
}

/** A prompt without a placeholder gets one for each image in front. */
function withPlaceholders(prompt: string, count: number, model: LanguageModel, context: Context): string {
  if (!model.images) return prompt; // the model says that it takes none
  const { placeholder } = model.images;
  if (model.tokenizer.encode(prompt).includes(placeholder)) return prompt;
  const token = model.tokenizer.decode([placeholder], { skipSpecialTokens: false });
  context.note(`The prompt does not say where the image is: ${plain(token)} is put in front of it.`);
  return `${`${token}\n`.repeat(count)}${prompt}`;
}

async function promptOf(text: string, context: Context): Promise<string> {
  if (text === '') throw new UsageError('--prompt is empty', 'Give a text to continue, or - to read it from stdin.');
  if (text !== '-') return text;
  if (process.stdin.isTTY) context.note('Reading the prompt from the terminal; end it with Ctrl-D.');
  const read = await readStdin(context.signal);
  if (read !== '') return read;
  throw new UsageError('stdin gave an empty prompt', 'Pipe a text into the command: echo "Once upon a time" | lowbit generate MODEL -p -');
}
