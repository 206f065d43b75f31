// The one place where errors of browsers become ours.

import { isLowbitError, LowbitError } from '@lowbit/core';

/** Name of a DOMException -> [what happened, what the user can do]. */
const PROBLEMS: Readonly<Record<string, readonly [problem: string, hint: string]>> = {
  QuotaExceededError: ['the browser gives this site no more room', 'Remove saved models, free disk space, or quantize to fewer bits.'],
  NotAllowedError: ['permission denied', 'Choose the folder again and allow this page to read it.'],
  NotReadableError: ['it was changed, moved or removed since it was chosen', 'Choose it again.'],
  NoModificationAllowedError: ['another tab is using it', 'Close the other tab and try again.'],
  InvalidModificationError: ['it is in use', 'Close what uses it and try again.'],
  TypeMismatchError: ['a file was expected and a folder found, or the other way round', 'Choose another one.'],
  InvalidStateError: ['it is closed, or its storage was cleared', 'Reload the page.'],
  SecurityError: [
    'the browser keeps storage from this page',
    'Open the page over https or localhost, outside of a private window, and allow its data.',
  ],
  UnknownError: ['the browser could not read or write its storage', 'Free disk space, restart the browser and try again.'],
};

/** The name of a browser's exception (`QuotaExceededError`), if it is one. */
function exceptionName(error: unknown): string | undefined {
  const name = typeof error === 'object' && error !== null ? (error as { name?: unknown }).name : undefined;
  return typeof name === 'string' && Object.hasOwn(PROBLEMS, name) ? name : undefined;
}

export function isNotFound(error: unknown): boolean {
  return typeof error === 'object' && error !== null && (error as { name?: unknown }).name === 'NotFoundError';
}

/** Runs `work` and rethrows a browser's exceptions as ERR_IO (ERR_NOT_FOUND). `action` completes "cannot ...". */
export async function guarded<T>(action: string, path: string, work: () => Promise<T> | T): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (isLowbitError(error)) throw error;
    if (isNotFound(error)) {
      throw new LowbitError('ERR_NOT_FOUND', `cannot ${action} ${path}: it does not exist`, {
        hint: 'It may have been removed since it was chosen: choose it again.',
        details: { path },
        cause: error,
      });
    }
    const name = exceptionName(error);
    if (name === undefined) throw error;
    const [problem, hint] = PROBLEMS[name]!;
    throw new LowbitError('ERR_IO', `cannot ${action} ${path}: ${problem}`, { hint, details: { path, exception: name }, cause: error });
  }
}
