// A TensorSource over files, whatever their format and wherever they are: the format says which tensors a file has and reads elements of one.

import {
  disposedError,
  type Entries,
  elementRange,
  type HostTensor,
  type LowbitError,
  quote,
  type ReadOptions,
  type TensorSpec,
} from '@lowbit/core';
import type { OpenFile, RandomFile } from './file.ts';
import { type FileSource, noTensor, type SourceFile, type TensorPlace } from './reading.ts';

/** What a format knows of an open file. */
export interface ReadFile<F extends SourceFile> {
  readonly file: F;
  /** Its tensors, in the order of the file. */
  readonly tensors: Entries;
  /** Bytes [start, end) of the file that a tensor is, where it lies there as it is. */
  readonly place?: (tensor: string) => readonly [start: number, end: number];
  /** Elements `from` to `to` of a tensor, which has them. */
  read(tensor: string, from: number, to: number, signal: AbortSignal | undefined): Promise<Uint8Array>;
}

export interface FileFormat<F extends SourceFile> {
  /** Reads what the file says of itself. It is closed by the source, if this fails too. */
  open(file: RandomFile, signal: AbortSignal | undefined): Promise<ReadFile<F>>;
  /** For a tensor that an earlier file has, too. */
  twice(file: string, tensor: string, earlier: string): LowbitError;
}

/** Opens files as one set of tensors. Throws what the format throws, ERR_NOT_FOUND, ERR_IO. Dispose it to close the files. */
export async function openFileSource<F extends SourceFile>(
  openers: readonly OpenFile[],
  { label, signal }: { readonly label: string; readonly signal?: AbortSignal | undefined },
  format: FileFormat<F>,
): Promise<FileSource & { readonly files: readonly F[] }> {
  const opened: RandomFile[] = [];
  const files: F[] = [];
  const states: (string | undefined)[] = [];
  const entries = new Map<string, TensorSpec>();
  const holders = new Map<string, { readonly holder: ReadFile<F>; readonly name: string; readonly file: RandomFile }>();
  let closed = false;
  async function dispose(): Promise<void> {
    closed = true;
    await Promise.all(opened.splice(0).map((file) => file.close()));
  }

  try {
    for (const open of openers) {
      const opening = await open(signal);
      opened.push(opening);
      const { name } = opening;
      const holder = await format.open(opening, signal);
      for (const [tensor, { dtype, shape }] of holder.tensors) {
        const earlier = holders.get(tensor);
        if (earlier !== undefined) throw format.twice(name, tensor, earlier.name);
        holders.set(tensor, { holder, name, file: opening });
        entries.set(tensor, { dtype, shape });
      }
      files.push(holder.file);
      states.push(opening.state);
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
  function place(tensor: string): TensorPlace | undefined {
    const { holder, file } = holders.get(tensor) ?? {};
    const span = file?.far ? undefined : holder?.place?.(tensor);
    return span && !closed ? { file: file!, at: span[0], bytes: span[1] - span[0] } : undefined;
  }
  return { label, entries, files, state, read, place, [Symbol.asyncDispose]: dispose };
}
