// A TensorSource over files of torch.save: pickles are read once, tensors by positional reads.

import { type FileHandle, open, stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { DTYPE_BYTES, type Entries, type HostTensor, LowbitError, quote, type ReadOptions } from '@lowbit/core';
import { guarded, readFully } from '../io.node.ts';
import { allocate, elementRange, type FileSource, noTensor, type SourceFile } from '../reading.ts';
import { openArchive, type TorchArchive } from './archive.ts';
import { type NamedTensor, namedTensors } from './state-dict.ts';
import { gather, isContiguous, viewProblem } from './strided.ts';
import { badPickle, type PickleValue } from './values.ts';

/** One open file of a source. */
export interface TorchFile extends SourceFile {
  /** Everything that was saved, tensors as descriptions of themselves. */
  readonly content: PickleValue;
  /** Names of its tensors, in the order of the file. */
  readonly names: readonly string[];
}

export interface TorchSource extends FileSource {
  readonly files: readonly TorchFile[];
}

export interface OpenTorchOptions {
  /** Names the source in messages; default the first path. */
  readonly label?: string;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Opens one or many files of torch.save (`pytorch_model.bin`, `qmodel.pt`) as one set of tensors. Nothing in them is ever executed: what is not
 * plain data is ERR_BAD_PICKLE. Also throws ERR_NOT_FOUND, ERR_IO, ERR_BAD_CHECKPOINT (no tensors, or two of one name), ERR_LIMIT, and
 * ERR_UNSUPPORTED_FORMAT for files of PyTorch before 1.6. Dispose it to close the files.
 */
export async function openTorchFile(paths: string | readonly string[], options: OpenTorchOptions = {}): Promise<TorchSource> {
  const list = typeof paths === 'string' ? [paths] : paths;
  const handles: FileHandle[] = [];
  const archives: TorchArchive[] = [];
  const files: TorchFile[] = [];
  const places = new Map<string, { readonly tensor: NamedTensor; readonly file: number }>();
  let closed = false;
  async function dispose(): Promise<void> {
    closed = true;
    await Promise.all(handles.splice(0).map((handle) => handle.close()));
  }

  try {
    for (const path of list) {
      const name = basename(path);
      const { handle, size } = await openRegular(path, options.signal);
      handles.push(handle);
      const archive = await openArchive((at, length, signal) => readAt(handle, path, size, at, length, signal), size, name, options.signal);
      const tensors = namedTensors(archive.content, name);
      for (const [tensor, place] of tensors) {
        const problem = place.kind === 'made' ? undefined : viewProblem(place, archive.storageBytes(place.storage.key) ?? 0);
        if (problem !== undefined) throw badPickle(name, `tensor ${quote(tensor)}: ${problem}`, { details: { tensor } });
        const other = places.get(tensor);
        if (other !== undefined) {
          throw new LowbitError('ERR_BAD_CHECKPOINT', `${name}: ${quote(tensor)} is also in ${basename(list[other.file]!)}`, {
            hint: 'The files belong to different models: fetch them again.',
            details: { file: name, tensor },
          });
        }
        places.set(tensor, { tensor: place, file: files.length });
      }
      archives.push(archive);
      files.push({ path, size, content: archive.content, names: [...tensors.keys()] });
    }
  } catch (error) {
    await dispose();
    throw error;
  }

  const label = options.label ?? list[0] ?? 'no files';
  const entries: Entries = new Map([...places].map(([name, { tensor }]) => [name, { dtype: tensor.dtype, shape: tensor.shape }]));

  async function read(name: string, { range, signal }: ReadOptions = {}): Promise<HostTensor> {
    signal?.throwIfAborted();
    if (closed) throw new LowbitError('ERR_DISPOSED', `${label} was closed before ${quote(name)} was read`);
    const found = places.get(name);
    if (found === undefined) throw noTensor(name, label);
    const { tensor, file } = found;
    const { dtype } = tensor;
    const [from, to] = elementRange(name, tensor, range);
    const shape = range === undefined ? tensor.shape : [to - from];
    const width = DTYPE_BYTES[dtype];
    if (tensor.kind === 'made') return { dtype, shape, data: tensor.data.slice(from * width, to * width) };
    if (to === from) return { dtype, shape, data: new Uint8Array(0) };
    const storage = (at: number, length: number) => archives[file]!.readStorage(tensor.storage.key, at, length, signal);
    if (isContiguous(tensor)) return { dtype, shape, data: await storage((tensor.offset + from) * width, (to - from) * width) };
    const data = allocate(name, (to - from) * width);
    await gather(tensor, from, to, data, storage);
    return { dtype, shape, data };
  }

  return { label, entries, files, read, [Symbol.asyncDispose]: dispose };
}

async function openRegular(path: string, signal?: AbortSignal): Promise<{ readonly handle: FileHandle; readonly size: number }> {
  signal?.throwIfAborted();
  // Before opening: a named pipe would block for ever.
  const kind = await guarded('open', path, () => stat(path));
  if (!kind.isFile()) {
    throw new LowbitError('ERR_IO', `cannot read ${path}: it is no regular file`, { hint: 'Check the path.', details: { path } });
  }
  const handle = await guarded('open', path, () => open(path, 'r'));
  return { handle, size: kind.size };
}

async function readAt(
  handle: FileHandle,
  path: string,
  size: number,
  at: number,
  length: number,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  // Compared before allocating: no claim of the file makes a buffer larger than the file.
  if (at < 0 || length < 0 || at + length > size) throw badPickle(basename(path), `bytes ${at} to ${at + length} of a file of ${size}`);
  const data = allocate(basename(path), length);
  const bytes = await guarded('read', path, () => readFully(handle, data, at, signal));
  if (bytes < length) throw badPickle(basename(path), 'the file became shorter while it was open');
  return data;
}
