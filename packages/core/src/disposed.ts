// What every disposable object throws once it is gone.

import { LowbitError } from './spec/errors.ts';

/** The ERR_DISPOSED of something used after dispose: names its owner, and what it was too late for (`"x" was read`). */
export function disposedError(owner: string, before?: string): LowbitError {
  return new LowbitError('ERR_DISPOSED', `${owner} was disposed${before === undefined ? '' : ` before ${before}`}`, {
    hint: 'Make a new one; dispose only when the last user is done.',
    details: { owner },
  });
}
