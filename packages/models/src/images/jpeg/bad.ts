// The error for what no JPEG file says.

import { LowbitError } from '@lowbit/core';

export function bad(what: string): LowbitError {
  return new LowbitError('ERR_BAD_IMAGE', `the JPEG file ${what}`, { hint: 'It is damaged, or was not copied completely.' });
}
