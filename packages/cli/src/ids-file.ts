// Token ids from a file, as for `lowbit perplexity --ids`: exactly what is scored, independent of any tokenizer.

import { LowbitError } from '@lowbit/core';

/** Texts as ids, and how they are cut into windows. */
export interface IdTexts {
  readonly texts: readonly (readonly number[])[];
  /** Tokens of a window, prefix included; undefined: the command's. */
  readonly context: number | undefined;
  /** Put in front of every window and not scored. */
  readonly prefixIds: readonly number[];
  /** Leave out a last window that is not full. */
  readonly dropPartial: boolean;
}

const FORMS = 'Give a list of ids, a list of lists (scored on their own), or { "ids": [...], "context": 256, "bos": 0 }.';

/**
 * Reads one of three forms: `[1, 2, 3]`, one text; `[[1, 2], [3, 4]]`, texts of their own; `{ ids, context?, bos? }`, where `ids` is either of them
 * (or `windows` is a list of `{ ids }`), windows have `context` tokens and begin with `bos`, and a last window that is not full is left out.
 * Throws ERR_BAD_ARGUMENT, naming the flag that the file was given after.
 */
export function parseIds(value: unknown, file: string, flag = '--ids'): IdTexts {
  return read(value, (problem) => bad(file, problem, flag));
}

type Refuse = (problem: string) => LowbitError;

function read(value: unknown, refuse: Refuse): IdTexts {
  if (Array.isArray(value)) return { texts: texts(value, refuse), context: undefined, prefixIds: [], dropPartial: false };
  if (typeof value !== 'object' || value === null) throw refuse('holds no list of ids');
  const { windows, context, bos } = value as { readonly windows?: unknown; readonly context?: unknown; readonly bos?: unknown };
  const { ids = Array.isArray(windows) ? windows.map(idsOf) : undefined } = value as { readonly ids?: unknown };
  if (!Array.isArray(ids)) throw refuse('has no list "ids"');
  if (context !== undefined && !(Number.isInteger(context) && (context as number) >= 2))
    throw refuse('"context" is no whole number from 2');
  if (bos !== undefined && bos !== null && !isId(bos)) throw refuse('"bos" is no token id');
  return {
    texts: texts(ids, refuse),
    context: context as number | undefined,
    prefixIds: isId(bos) ? [bos] : [],
    dropPartial: context !== undefined,
  };
}

function idsOf(window: unknown): unknown {
  return typeof window === 'object' && window !== null ? (window as { readonly ids?: unknown }).ids : undefined;
}

function texts(list: readonly unknown[], refuse: Refuse): readonly (readonly number[])[] {
  if (list.length === 0) throw refuse('holds an empty list');
  const lists = Array.isArray(list[0]) ? list : [list];
  for (const [i, ids] of lists.entries()) {
    if (!Array.isArray(ids) || ids.length === 0) throw refuse(`entry ${i} is no list of ids`);
    const at = ids.findIndex((id) => !isId(id));
    if (at >= 0) throw refuse(`${JSON.stringify(ids[at])} is no token id (list ${i}, position ${at})`);
  }
  return lists as readonly (readonly number[])[];
}

function isId(value: unknown): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < 2 ** 32;
}

function bad(file: string, problem: string, flag: string): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', `${flag}: ${file} ${problem}`, { hint: FORMS, details: { flag, path: file } });
}
