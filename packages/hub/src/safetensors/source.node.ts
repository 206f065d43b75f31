// A TensorSource over safetensors files on disk: headers are read once, tensors by positional reads of exactly the bytes asked for.

import { DTYPE_BYTES } from '@lowbit/core';
import { type FileFormat, type OpenSourceOptions, openFileSource, openRegular, type RegularFile } from '../file-source.node.ts';
import { guarded, readFully } from '../io.node.ts';
import { allocate, type FileSource, type SourceFile } from '../reading.ts';
import { badSafetensors, headerLength, parseHeader, type SafetensorsHeader } from './header.ts';

/** One open file of a source. */
export interface SafetensorsFile extends SourceFile {
  readonly header: SafetensorsHeader;
}

export interface SafetensorsSource extends FileSource {
  readonly files: readonly SafetensorsFile[];
}

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
    await regular.handle.close();
  }
}

/**
 * Opens one or many files as one set of tensors. Throws ERR_NOT_FOUND for a missing file, ERR_IO, ERR_BAD_SAFETENSORS for a broken one or for a
 * tensor that two files hold, ERR_UNSUPPORTED_FORMAT for dtypes such as F8_E4M3. Dispose it to close the files.
 */
export function openSafetensors(paths: string | readonly string[], options: OpenSafetensorsOptions = {}): Promise<SafetensorsSource> {
  return openFileSource(paths, options, FORMAT);
}

const FORMAT: FileFormat<SafetensorsFile> = {
  async open(regular, signal) {
    const { handle, path } = regular;
    const file = await readHeader(regular, signal);
    const { tensors } = file.header;
    return {
      file,
      tensors,
      async read(name, from, to, signal) {
        const { dtype, start } = tensors.get(name)!;
        const width = DTYPE_BYTES[dtype];
        const data = allocate(name, (to - from) * width);
        const bytes = await guarded('read', path, () => readFully(handle, data, start + from * width, signal));
        if (bytes < data.byteLength) throw badSafetensors(path, 'the file became shorter while it was open', name);
        return data;
      },
    };
  },
  twice: (file, tensor, earlier) => badSafetensors(file, `it is also in ${earlier}`, tensor),
};

async function readHeader({ handle, path, name, size }: RegularFile, signal?: AbortSignal): Promise<SafetensorsFile> {
  const prefix = new Uint8Array(8);
  const got = await guarded('read', path, () => readFully(handle, prefix, 0, signal));
  const json = new Uint8Array(headerLength(prefix.subarray(0, got), size, name));
  const bytes = await guarded('read', path, () => readFully(handle, json, 8, signal));
  if (bytes < json.byteLength) throw badSafetensors(name, 'the file became shorter while it was read');
  return { path, size, header: parseHeader(json, size, name) };
}
