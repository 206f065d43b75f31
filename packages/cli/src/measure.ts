// How far a model folder is from another: the next-token distributions of both compared over a text, and their linears one by one.

import { LowbitError } from '@lowbit/core';
import {
  type Divergence,
  klDivergence,
  type LanguageModel,
  type LinearError,
  type LinearErrorsOptions,
  linearErrors,
  type Tokenizer,
  type WindowOptions,
} from '@lowbit/models';
import { checkedOptions } from './checked-options.ts';
import type { IdTexts } from './ids-file.ts';
import { type LoadModelOptions, loadModel } from './load-model.ts';
import { openModelFolder } from './open.ts';
import { type RunsOn, runtimeOf } from './running-on.ts';
import { encodeText, type TextFile, usualWindows } from './texts.ts';

/** Of a model against the one that it was made of. */
export interface MeasuredLoss {
  /** Mean KL(original || quantized) per token, in nats, and its standard error. */
  readonly kl: number;
  readonly klStderr: number;
  /** Share of tokens where both hold the same next token the likeliest, and its standard error. */
  readonly top1: number;
  readonly top1Stderr: number;
  readonly perplexity: { readonly before: number; readonly after: number };
  readonly tokens: number;
}

/** `MeasuredLoss`, with all that was measured on the way and how the text was cut. */
export interface ModelComparison extends Divergence {
  /** Tokens of a window, start token included. */
  readonly contextLength: number;
  readonly stride: number;
  /** Put in front of every window and not scored. */
  readonly startToken: number | null;
}

export interface CompareModelsOptions
  extends RunsOn,
    Pick<LoadModelOptions, 'adapters' | 'head' | 'layouts' | 'codecs' | 'signal' | 'onProgress'> {
  /** Tokens of a window; default the smaller of 2,048 and what both models take. */
  readonly contextLength?: number | undefined;
  /** Tokens that a window moves on by; default a whole window. */
  readonly stride?: number | undefined;
}

/**
 * Compares the model in `path` with that in `reference` over a text. Both are in memory meanwhile; of their logits one row of each.
 * @throws ERR_BAD_ARGUMENT where vocabularies or tokenizers differ, and what `loadModel` and `klDivergence` throw
 *
 * @example
 * const { kl, klStderr } = await compareModels('./model-hqq4', './model', { text: await readFile('text.txt', 'utf8') });
 */
export async function compareModels(
  path: string,
  reference: string,
  file: TextFile,
  options: CompareModelsOptions = {},
): Promise<ModelComparison> {
  const { runtime: givenRuntime, backends, onNote, signal, onProgress, contextLength, stride, head, ...rest } = options;
  await using own = await runtimeOf({ runtime: givenRuntime, backends, onNote });
  const { runtime } = own;
  await using original: LanguageModel = await loadModel(reference, { ...rest, runtime, signal, onProgress });
  await using model: LanguageModel = await loadModel(path, { ...rest, ...(head ? { head } : {}), runtime, signal, onProgress });
  const given = 'ids' in file ? file.ids : sharedIds(original.tokenizer, model.tokenizer, file.text);
  const context = Math.min(original.contextLength, model.contextLength);
  const windows: WindowOptions & { readonly stride: number } = usualWindows(
    given,
    { contextLength: context },
    { ctx: contextLength, stride },
  );
  const measured = await klDivergence(original, model, given.texts, { ...windows, signal, onProgress });
  return { ...measured, contextLength: windows.contextLength, stride: windows.stride, startToken: given.prefixIds[0] ?? null };
}

/** Ids of the text, if both tokenizers give the same. */
function sharedIds(original: Tokenizer, model: Tokenizer, text: string): IdTexts {
  const [ids, others] = [original, model].map((tokenizer) => encodeText(tokenizer, text));
  const [a, b] = [ids!.texts[0]!, others!.texts[0]!];
  if (a.length === b.length && a.every((id, i) => id === b[i])) return ids!;
  throw new LowbitError('ERR_BAD_ARGUMENT', 'the tokenizers of the two models cut this text into different tokens', {
    hint: 'Only models with one tokenizer can be compared token by token.',
    details: { tokens: [a.length, b.length] },
  });
}

/** The same for the report of what was made: which is the original comes first. Throws what `compareModels` throws. */
export async function measureLoss(
  original: string,
  path: string,
  file: TextFile,
  options: RunsOn & Pick<LoadModelOptions, 'adapters' | 'signal' | 'onProgress'> = {},
): Promise<MeasuredLoss> {
  checkedOptions('measureLoss', options);
  const { kl, klStderr, top1, top1Stderr, tokens, reference, model } = await compareModels(path, original, file, options);
  return { kl, klStderr, top1, top1Stderr, perplexity: { before: reference.perplexity, after: model.perplexity }, tokens };
}

/**
 * Errors of the linears of the model in `path` against those in `reference`: see `linearErrors` of models. One layer is in memory at a time.
 * @throws what `openModelFolder` and `linearErrors` throw
 *
 * @example
 * const errors = await compareLinears('./model-hqq4', './model', { ids: [[1, 5, 9, 13]] });
 */
export async function compareLinears(
  path: string,
  reference: string,
  options: RunsOn & Pick<LoadModelOptions, 'layouts' | 'codecs'> & Omit<LinearErrorsOptions, 'runtime'>,
): Promise<readonly LinearError[]> {
  checkedOptions('compareLinears', options);
  const { runtime, backends, onNote, layouts, codecs, ...rest } = options;
  const opening = { layouts, codecs, signal: rest.signal };
  await using original = await openModelFolder(reference, opening);
  await using model = await openModelFolder(path, opening);
  await using own = await runtimeOf({ runtime, backends, onNote });
  return await linearErrors(model, original, { ...rest, runtime: own.runtime });
}
