// `lowbit report`: what a model lost, as one HTML file that can be sent around.

import { basename, resolve } from 'node:path';
import type { Context } from '../context.ts';
import { UsageError } from '../errors.ts';
import { checkWritable, readJsonFile, readTextFile, writeTextFile } from '../files.ts';
import { loadModel } from '../load-model.ts';
import { readRecipe, recipeText } from '../recipe.ts';
import type { QualityReport, Sample } from '../report/data.ts';
import { reportHtml } from '../report/page.ts';
import { readFrontier } from '../report/read-frontier.ts';
import { isSaved, parseSaved } from '../sensitivity.ts';
import { pairs, plain } from '../table.ts';
import { bytesText } from '../units.ts';
import { type OpenBackend, openBackend } from './backend.ts';
import { type CompareOptions, compareReport, readCompared } from './compare.ts';

export interface ReportOptions extends Omit<CompareOptions, 'linears'> {
  readonly out: string;
  readonly frontier?: string;
  readonly sensitivity?: string;
  readonly recipe?: string;
  readonly prompt?: readonly string[];
  readonly maxTokens: number;
}

/** Runs the command. */
export async function reportCommand(path: string, reference: string, options: ReportOptions, context: Context): Promise<void> {
  const { out, frontier, sensitivity, recipe, prompt = [], maxTokens } = options;
  if (resolve(out) === resolve(path)) throw new UsageError('--out is the model folder', 'Name a file, such as report.html.');
  // Read first: a wrong file should not cost the work before.
  const file = await readCompared('report', options);
  await checkWritable(out, '--out', { replace: options.overwrite });
  const points = frontier === undefined ? [] : readFrontier(await readTextFile(frontier, '--frontier'), `--frontier: ${frontier}`);
  const sensitivities = sensitivity === undefined ? [] : await savedOf(sensitivity);
  const own = recipe === undefined ? null : await recipeShown(recipe);
  await using place = await openBackend(options, context);
  const comparison = await compareReport(path, reference, file, { ...options, linears: true }, place, context);
  const samples = prompt.length === 0 ? [] : await samplesOf(path, reference, prompt, maxTokens, place, context);
  const report: QualityReport = {
    kind: 'lowbit report',
    version: 1,
    model: basename(resolve(path)),
    reference: basename(resolve(reference)),
    text: basename(options.data ?? options.ids!),
    date: new Date().toISOString().slice(0, 10),
    comparison,
    sensitivities,
    frontier: points,
    recipe: own,
    samples,
  };
  const html = reportHtml(report);
  await writeTextFile(out, html, '--out');
  context.progress.clear();
  await (context.json
    ? context.emit(report)
    : context.print(`Wrote ${context.bold(plain(out))}\n\n${pairs([['size', bytesText(Buffer.byteLength(html))]])}\n`));
}

/** The recipe as it is told to others: of a text the name, not where on this machine it is. */
async function recipeShown(path: string): Promise<string> {
  const recipe = await readRecipe(path);
  const { importance } = recipe;
  return recipeText(
    typeof importance === 'object' ? { ...recipe, importance: { ...importance, file: basename(importance.file) } } : recipe,
  );
}

async function savedOf(path: string): Promise<QualityReport['sensitivities']> {
  const value = await readJsonFile(path, '--sensitivity');
  if (!isSaved(value))
    throw new UsageError(`--sensitivity: ${path} holds no sensitivities`, '`lowbit sensitivity MODEL --save FILE` writes them.');
  return parseSaved(value, `--sensitivity: ${path}`).linears.map(({ path: linear, sensitivity }) => ({ path: linear, sensitivity }));
}

/** What both models write, the likeliest token at each step, one model in memory at a time. */
async function samplesOf(
  path: string,
  reference: string,
  prompts: readonly string[],
  maxTokens: number,
  { runtime, plugins }: Pick<OpenBackend, 'runtime' | 'plugins'>,
  { signal }: Context,
): Promise<readonly Sample[]> {
  const texts = async (folder: string): Promise<readonly string[]> => {
    await using model = await loadModel(folder, { ...plugins, runtime, signal });
    const written: string[] = [];
    for (const prompt of prompts) written.push((await model.generate({ prompt, maxTokens, temperature: 0, signal })).text);
    return written;
  };
  const [originals, quantized] = [await texts(reference), await texts(path)];
  return prompts.map((prompt, i) => ({ prompt, original: originals[i]!, quantized: quantized[i]! }));
}
