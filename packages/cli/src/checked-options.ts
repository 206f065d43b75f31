// What a caller hands over instead of options.

import { isPlainRecord, LowbitError } from '@lowbit/core';

/** The options themselves. Throws ERR_BAD_ARGUMENT unless they are a plain object; their names are checked by whoever takes them. */
export function checkedOptions<T>(call: string, options: T): T {
  if (isPlainRecord(options)) return options;
  throw new LowbitError('ERR_BAD_ARGUMENT', `${call}: options must be a plain object`);
}
