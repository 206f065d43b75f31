// A TensorSource over files on disk, whatever their format: the format says which tensors a file has and reads elements of one.

import type { BigIntStats } from 'node:fs';
import { type FileHandle, open, stat } from 'node:fs/promises';
import { basename, resolve } from 'node:path';
import {
  disposedError,
  type Entries,
  elementRange,
  type HostTensor,
  LowbitError,
  quote,
  type ReadOptions,
  type TensorSpec,
} from '@lowbit/core';
import { guarded } from './io.node.ts';
import { type FileSource, noTensor, type SourceFile } from './reading.ts';

export interface OpenSourceOptions {
  /** Names the source in messages; default the first path. */
  readonly label?: string;
  readonly signal?: AbortSignal | undefined;
}

export interface RegularFile {
  readonly handle: FileHandle;
  readonly path: string;
  /** Name without folders, for messages. */
  readonly name: string;
  /** Bytes when it was opened. */
  readonly size: number;
  /** See `FileSource`. */
  readonly state: string | undefined;
}

/** What a format knows of an open file. */
export interface ReadFile<F extends SourceFile> {
  readonly file: F;
  /** Its tensors, in the order of the file. */
  readonly tensors: Entries;
  /** Elements `from` to `to` of a tensor, which has them. */
  read(tensor: string, from: number, to: number, signal: AbortSignal | undefined): Promise<Uint8Array>;
}

export interface FileFormat<F extends SourceFile> {
  /** Reads what the file says of itself. Its handle is closed by the source, if this fails too. */
  open(file: RegularFile, signal: AbortSignal | undefined): Promise<ReadFile<F>>;
  /** For a tensor that an earlier file has, too. */
  twice(file: string, tensor: string, earlier: string): LowbitError;
}

/** Opens files as one set of tensors. Throws what the format throws, ERR_NOT_FOUND, ERR_IO. Dispose it to close the files. */
export async function openFileSource<F extends SourceFile>(
  paths: string | readonly string[],
  { label: given, signal }: OpenSourceOptions,
  format: FileFormat<F>,
): Promise<FileSource & { readonly files: readonly F[] }> {
  const list = typeof paths === 'string' ? [paths] : paths;
  const label = given ?? list[0] ?? 'no files';
  const handles: FileHandle[] = [];
  const files: F[] = [];
  const states: (string | undefined)[] = [];
  const entries = new Map<string, TensorSpec>();
  const holders = new Map<string, { readonly holder: ReadFile<F>; readonly name: string }>();
  let closed = false;
  async function dispose(): Promise<void> {
    closed = true;
    await Promise.all(handles.splice(0).map((handle) => handle.close()));
  }

  try {
    for (const path of list) {
      const regular = await openRegular(path, signal);
      handles.push(regular.handle);
      const { name } = regular;
      const holder = await format.open(regular, signal);
      for (const [tensor, { dtype, shape }] of holder.tensors) {
        const earlier = holders.get(tensor);
        if (earlier !== undefined) throw format.twice(name, tensor, earlier.name);
        holders.set(tensor, { holder, name });
        entries.set(tensor, { dtype, shape });
      }
      files.push(holder.file);
      states.push(regular.state);
    }
  } catch (error) {
    await dispose();
    throw error;
  }

  async function read(name: string, { range, signal }: ReadOptions = {}): Promise<HostTensor> {
    signal?.throwIfAborted();
    if (closed) throw disposedError(label, `${quote(name)} was read`);
    const spec = entries.get(name);
    if (spec === undefined) throw noTensor(name, label);
    const [from, to] = elementRange(name, spec, range);
    const data = await holders.get(name)!.holder.read(name, from, to, signal);
    return { dtype: spec.dtype, shape: range === undefined ? spec.shape : [to - from], data };
  }

  const state = states.includes(undefined) ? undefined : states.join('\n');
  return { label, entries, files, state, read, [Symbol.asyncDispose]: dispose };
}

/** Opens a file for reading. Throws ERR_NOT_FOUND, and ERR_IO for what is no regular file. */
export async function openRegular(path: string, signal?: AbortSignal): Promise<RegularFile> {
  signal?.throwIfAborted();
  // Before opening: a named pipe would block for ever.
  const kind = await guarded('open', path, () => stat(path));
  if (!kind.isFile()) {
    throw new LowbitError('ERR_IO', `cannot read ${path}: it is no regular file`, { hint: 'Check the path.', details: { path } });
  }
  const handle = await guarded('open', path, () => open(path, 'r'));
  try {
    const facts = await guarded('read', path, () => handle.stat({ bigint: true }));
    return { handle, path, name: basename(path), size: Number(facts.size), state: stateOf(path, facts) };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** Clocks of file systems tick up to this much later than others' (FAT and network shares have whole seconds). */
const TICK_MS = 100;
const COARSE_TICK_MS = 2100;

function stateOf(path: string, { size, ino, mtimeNs, ctimeNs }: BigIntStats): string | undefined {
  const coarse = mtimeNs % 1_000_000_000n === 0n && ctimeNs % 1_000_000_000n === 0n;
  const changed = Number((mtimeNs > ctimeNs ? mtimeNs : ctimeNs) / 1_000_000n);
  if (Date.now() - changed < (coarse ? COARSE_TICK_MS : TICK_MS)) return undefined;
  return JSON.stringify([resolve(path), ...[size, ino, mtimeNs, ctimeNs].map(String)]);
}
