// A TensorSource over safetensors files on disk: headers are read once, tensors by positional reads of exactly the bytes asked for.

import { type FileHandle, open, stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { DTYPE_BYTES, type Entries, type HostTensor, LowbitError, quote, type ReadOptions } from '@lowbit/core';
import { guarded, readFully } from '../io.node.ts';
import { allocate, elementRange, type FileSource, noTensor, type SourceFile } from '../reading.ts';
import { badSafetensors, headerLength, parseHeader, type SafetensorsHeader, type TensorPlace } from './header.ts';

/** One open file of a source. */
export interface SafetensorsFile extends SourceFile {
  readonly header: SafetensorsHeader;
}

export interface SafetensorsSource extends FileSource {
  readonly files: readonly SafetensorsFile[];
}

export interface OpenSafetensorsOptions {
  /** Names the source in messages; default the first path. */
  readonly label?: string;
  readonly signal?: AbortSignal | undefined;
}

/** Reads and checks the header of one file. Throws ERR_NOT_FOUND, ERR_IO or ERR_BAD_SAFETENSORS. */
export async function readSafetensorsHeader(
  path: string,
  options: { readonly signal?: AbortSignal | undefined } = {},
): Promise<SafetensorsFile> {
  const { handle, file } = await openFile(path, options.signal);
  await handle.close();
  return file;
}

/**
 * Opens one or many files as one set of tensors. Throws ERR_NOT_FOUND for a missing file, ERR_IO, ERR_BAD_SAFETENSORS for a broken one or for a
 * tensor that two files hold, ERR_UNSUPPORTED_FORMAT for dtypes such as F8_E4M3. Dispose it to close the files.
 */
export async function openSafetensors(paths: string | readonly string[], options: OpenSafetensorsOptions = {}): Promise<SafetensorsSource> {
  const list = typeof paths === 'string' ? [paths] : paths;
  const handles: FileHandle[] = [];
  const files: SafetensorsFile[] = [];
  const places = new Map<string, { readonly place: TensorPlace; readonly file: number }>();
  let closed = false;
  async function dispose(): Promise<void> {
    closed = true;
    await Promise.all(handles.splice(0).map((handle) => handle.close()));
  }

  try {
    for (const path of list) {
      const { handle, file } = await openFile(path, options.signal);
      handles.push(handle);
      for (const [name, place] of file.header.tensors) {
        const other = places.get(name);
        if (other !== undefined) throw badSafetensors(basename(path), `it is also in ${basename(list[other.file]!)}`, name);
        places.set(name, { place, file: files.length });
      }
      files.push(file);
    }
  } catch (error) {
    await dispose();
    throw error;
  }

  const label = options.label ?? list[0] ?? 'no files';
  const entries: Entries = new Map([...places].map(([name, { place }]) => [name, { dtype: place.dtype, shape: place.shape }]));

  async function read(name: string, { range, signal }: ReadOptions = {}): Promise<HostTensor> {
    signal?.throwIfAborted();
    if (closed) throw new LowbitError('ERR_DISPOSED', `${label} was closed before ${quote(name)} was read`);
    const found = places.get(name);
    if (found === undefined) throw noTensor(name, label);
    const { place } = found;
    const [from, to] = elementRange(name, place, range);
    const width = DTYPE_BYTES[place.dtype];
    const data = allocate(name, (to - from) * width);
    const path = list[found.file]!;
    const bytes = await guarded('read', path, () => readFully(handles[found.file]!, data, place.start + from * width, signal));
    if (bytes < data.byteLength) throw badSafetensors(path, 'the file became shorter while it was open', name);
    return { dtype: place.dtype, shape: range === undefined ? place.shape : [to - from], data };
  }

  return { label, entries, files, read, [Symbol.asyncDispose]: dispose };
}

async function openFile(path: string, signal?: AbortSignal): Promise<{ readonly handle: FileHandle; readonly file: SafetensorsFile }> {
  signal?.throwIfAborted();
  // Before opening: a named pipe would block for ever.
  const kind = await guarded('open', path, () => stat(path));
  if (!kind.isFile()) {
    throw new LowbitError('ERR_IO', `cannot read ${path}: it is no regular file`, { hint: 'Check the path.', details: { path } });
  }
  const handle = await guarded('open', path, () => open(path, 'r'));
  try {
    const { size } = await guarded('read', path, () => handle.stat());
    const name = basename(path);
    const prefix = new Uint8Array(8);
    const got = await guarded('read', path, () => readFully(handle, prefix, 0, signal));
    const json = new Uint8Array(headerLength(prefix.subarray(0, got), size, name));
    const bytes = await guarded('read', path, () => readFully(handle, json, 8, signal));
    if (bytes < json.byteLength) throw badSafetensors(name, 'the file became shorter while it was read');
    return { handle, file: { path, size: size, header: parseHeader(json, size, name) } };
  } catch (error) {
    await handle.close();
    throw error;
  }
}
