// What is said of a GGUF file that cannot be read.

import { type ErrorInfo, LowbitError, quote } from '@lowbit/core';

/** An ERR_BAD_CHECKPOINT that names the file: it breaks the format, or contradicts itself. */
export function badGguf(file: string, problem: string, details: ErrorInfo['details'] = {}): LowbitError {
  return new LowbitError('ERR_BAD_CHECKPOINT', `${file}: ${problem}`, {
    hint: 'The file is damaged or incomplete: fetch or write it again.',
    details: { file, ...details },
  });
}

/** An ERR_UNSUPPORTED_ARCH that names the file and its architecture. */
export function unsupportedGguf(file: string, architecture: string, problem: string, hint: string): LowbitError {
  return new LowbitError('ERR_UNSUPPORTED_ARCH', `${file}: the architecture ${quote(architecture)} ${problem}`, {
    hint,
    details: { file, architecture },
  });
}
