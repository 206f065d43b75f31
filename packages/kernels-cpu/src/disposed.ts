import { LowbitError } from '@lowbit/core';

/** The ERR_DISPOSED of something used after dispose: names its owner. */
export function disposedError(owner: string): LowbitError {
  return new LowbitError('ERR_DISPOSED', `${owner} was disposed`, {
    hint: 'Make a new one; dispose only when the last user is done.',
    details: { owner },
  });
}
