// Errors as the page shows them.

import { isLowbitError } from '@lowbit/core';
import type { Failure } from '../protocol.ts';

/** What engines say where there is no memory for an array: Chrome and Safari, Firefox, Chrome for its largest. */
const NO_MEMORY = /allocation failed|out of memory|allocation size overflow|invalid (?:typed )?array(?: buffer)? length/i;

/** That a browser had no memory, which is no LowbitError: it says so as a RangeError. */
function isOutOfMemory(error: unknown): boolean {
  if (isLowbitError(error)) return isOutOfMemory(error.cause);
  return error instanceof RangeError && NO_MEMORY.test(error.message);
}

export function toFailure(error: unknown, aborted: boolean): Failure {
  if (isOutOfMemory(error)) {
    const said = error instanceof Error ? error.message : String(error);
    return {
      ...{ code: 'ERR_LIMIT', reason: 'OUT_OF_MEMORY', aborted, message: `This tab has no memory for that (${said})` },
      hint: 'Nothing was kept of it. Choose a smaller model, quantize to fewer bits, or close other tabs and try again.',
    };
  }
  if (!isLowbitError(error)) return { code: 'ERR_UNEXPECTED', message: error instanceof Error ? error.message : String(error), aborted };
  const reason = error.details?.reason;
  return { code: error.code, message: error.message, hint: error.hint, reason: typeof reason === 'string' ? reason : undefined, aborted };
}
