// Deflate with a bound: what comes out is counted as it comes, so that a few kilobytes cannot become gigabytes.

import { isLowbitError } from '@lowbit/core';
import { badPickle } from './values.ts';

/** Exactly `size` bytes. Throws ERR_BAD_PICKLE if there are more or fewer, or if the data is damaged. */
export async function inflate(packed: Uint8Array, size: number, file: string): Promise<Uint8Array> {
  const stream = new DecompressionStream('deflate-raw');
  const writer = stream.writable.getWriter();
  // Errors of the writing side come out of the reading side, too.
  const written = (async () => {
    await writer.write(packed as Uint8Array<ArrayBuffer>);
    await writer.close();
  })().catch(() => undefined);
  const reader = (stream.readable as ReadableStream<Uint8Array>).getReader();
  const data = new Uint8Array(size);
  let done = 0;
  try {
    for (;;) {
      const { value, done: ended } = await reader.read();
      if (ended) break;
      if (done + value.byteLength > size) throw badPickle(file, `a compressed entry inflates to more than the ${size} bytes it claims`);
      data.set(value, done);
      done += value.byteLength;
    }
  } catch (cause) {
    await reader.cancel().catch(() => undefined);
    if (isLowbitError(cause)) throw cause;
    throw badPickle(file, 'a compressed entry is damaged');
  }
  await written;
  if (done < size) throw badPickle(file, `a compressed entry inflates to ${done} bytes, ${size} are claimed`);
  return data;
}
