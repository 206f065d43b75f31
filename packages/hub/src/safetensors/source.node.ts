// Safetensors files on disk.

import { type OpenSourceOptions, openRegular, pathOpeners } from '../file-source.node.ts';
import { openFileSource } from '../file-source.ts';
import { readHeader, SAFETENSORS, type SafetensorsFile, type SafetensorsSource } from './source.ts';

/** Of `openSafetensors`. */
export interface OpenSafetensorsOptions extends OpenSourceOptions {}

/** Reads and checks the header of one file. Throws ERR_NOT_FOUND, ERR_IO or ERR_BAD_SAFETENSORS. */
export async function readSafetensorsHeader(
  path: string,
  options: { readonly signal?: AbortSignal | undefined } = {},
): Promise<SafetensorsFile> {
  const regular = await openRegular(path, options.signal);
  try {
    return await readHeader(regular, options.signal);
  } finally {
    await regular.close();
  }
}

/**
 * Opens one or many files as one set of tensors. Throws ERR_NOT_FOUND for a missing file, ERR_IO, ERR_BAD_SAFETENSORS for a broken one or for a
 * tensor that two files hold, ERR_UNSUPPORTED_FORMAT for dtypes such as F8_E4M3. Dispose it to close the files.
 */
export function openSafetensors(paths: string | readonly string[], options: OpenSafetensorsOptions = {}): Promise<SafetensorsSource> {
  return openFileSource(...pathOpeners(paths, options), SAFETENSORS);
}
