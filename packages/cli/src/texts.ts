// Texts that are scored: from files of text or of token ids to windows.

import type { LanguageModel, Tokenizer, WindowOptions } from '@lowbit/models';
import { readJsonFile, readTextFile } from './files.ts';
import { type IdTexts, parseIds } from './ids-file.ts';

/** A file as read: text, or ids. */
export type TextFile = { readonly text: string } | { readonly ids: IdTexts };

/** Reads a file named after a flag: JSON is token ids, anything else text. */
export async function readTexts(path: string, flag: string): Promise<TextFile> {
  if (path.endsWith('.json')) return { ids: parseIds(await readJsonFile(path, flag), path, flag) };
  return { text: await readTextFile(path, flag) };
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
