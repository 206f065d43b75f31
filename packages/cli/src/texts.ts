// Texts that are scored: from files of text or of token ids to windows.

import { isLowbitError, LowbitError, nearestName } from '@lowbit/core';
import type { LanguageModel, Tokenizer, WindowOptions } from '@lowbit/models';
import { UsageError } from './errors.ts';
import { readJsonFile, readTextFile } from './files.ts';
import { type IdTexts, parseIds } from './ids-file.ts';

/** A file as read: text, or ids. */
export type TextFile = { readonly text: string } | { readonly ids: IdTexts };

/** Reads a file named after a flag: JSON is token ids, anything else text. */
export async function readTexts(path: string, flag: string): Promise<TextFile> {
  if (path.endsWith('.json')) return { ids: parseIds(await readJsonFile(path, flag), path, flag) };
  return { text: await readTextFile(path, flag) };
}

/** A file, where a flag also takes those words: whoever mistyped one is told of it. Throws as `readTexts`, and a UsageError for what is nearly a word. */
export async function readNamed(path: string, flag: string, words: readonly string[]): Promise<TextFile> {
  try {
    return await readTexts(path, flag);
  } catch (error) {
    if (!isLowbitError(error, 'ERR_NOT_FOUND')) throw error;
    const near = nearestName(path, words);
    const message = `${flag}: ${path} is neither ${words.join(', ')} nor a file`;
    if (near !== undefined) throw new UsageError(message, `Did you mean ${near}?`);
    throw new LowbitError('ERR_NOT_FOUND', message, {
      hint: 'Check the path.',
      details: { ...error.details, words },
      cause: error,
    });
  }
}

/** The text as ids. A start token, if the tokenizer puts one in front of a text, goes in front of every window instead. */
export function encodeText(tokenizer: Tokenizer, text: string): IdTexts {
  const [first] = tokenizer.encode('a');
  const prefixIds = first !== undefined && first === tokenizer.bosId ? [first] : [];
  return { texts: [tokenizer.encode(text, { addSpecialTokens: false })], context: undefined, prefixIds, dropPartial: false };
}

const DEFAULT_CONTEXT = 2048;

/** The windows that a text is scored in, where no flag says otherwise. */
export function usualWindows(
  { texts, prefixIds, dropPartial, context }: IdTexts,
  model: Pick<LanguageModel, 'contextLength'>,
  asked: { readonly ctx?: number | undefined; readonly stride?: number | undefined } = {},
): WindowOptions & { readonly stride: number; readonly prefixIds: readonly number[] } {
  const longest = Math.max(...texts.map((ids) => ids.length)) + prefixIds.length;
  const usual = texts.length > 1 ? Math.max(2, Math.min(longest, model.contextLength)) : Math.min(DEFAULT_CONTEXT, model.contextLength);
  const contextLength = asked.ctx ?? context ?? usual;
  // A stride of the whole context means "no overlap"; the start token takes one place of it.
  const body = contextLength - prefixIds.length;
  const stride = asked.stride === undefined || asked.stride === contextLength ? body : asked.stride;
  return { contextLength, stride, prefixIds, dropPartial };
}
