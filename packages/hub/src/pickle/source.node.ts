// A TensorSource over files of torch.save: pickles are read once, tensors by positional reads.

import { DTYPE_BYTES, LowbitError, quote } from '@lowbit/core';
import { type FileFormat, type OpenSourceOptions, openFileSource, type RegularFile } from '../file-source.node.ts';
import { guarded, readFully } from '../io.node.ts';
import { allocate, type FileSource, type SourceFile } from '../reading.ts';
import { openArchive } from './archive.ts';
import { namedTensors } from './state-dict.ts';
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

export interface OpenTorchOptions extends OpenSourceOptions {}

/**
 * Opens one or many files of torch.save (`pytorch_model.bin`, `qmodel.pt`) as one set of tensors. Nothing in them is ever executed: what is not
 * plain data is ERR_BAD_PICKLE. Also throws ERR_NOT_FOUND, ERR_IO, ERR_BAD_CHECKPOINT (no tensors, or two of one name), ERR_LIMIT, and
 * ERR_UNSUPPORTED_FORMAT for files of PyTorch before 1.6. Dispose it to close the files.
 */
export function openTorchFile(paths: string | readonly string[], options: OpenTorchOptions = {}): Promise<TorchSource> {
  return openFileSource(paths, options, FORMAT);
}

const FORMAT: FileFormat<TorchFile> = {
  async open(regular, signal) {
    const { path, name, size } = regular;
    const archive = await openArchive((at, length, signal) => readAt(regular, at, length, signal), size, name, signal);
    const tensors = namedTensors(archive.content, name);
    for (const [tensor, place] of tensors) {
      const problem = place.kind === 'made' ? undefined : viewProblem(place, archive.storageBytes(place.storage.key) ?? 0);
      if (problem !== undefined) throw badPickle(name, `tensor ${quote(tensor)}: ${problem}`, { details: { tensor } });
    }
    return {
      file: { path, size, content: archive.content, names: [...tensors.keys()] },
      tensors,
      async read(name, from, to, signal) {
        const tensor = tensors.get(name)!;
        const width = DTYPE_BYTES[tensor.dtype];
        if (tensor.kind === 'made') return tensor.data.slice(from * width, to * width);
        if (to === from) return new Uint8Array(0);
        const storage = (at: number, length: number) => archive.readStorage(tensor.storage.key, at, length, signal);
        if (isContiguous(tensor)) return storage((tensor.offset + from) * width, (to - from) * width);
        const data = allocate(name, (to - from) * width);
        await gather(tensor, from, to, data, storage);
        return data;
      },
    };
  },
  twice: (file, tensor, earlier) =>
    new LowbitError('ERR_BAD_CHECKPOINT', `${file}: ${quote(tensor)} is also in ${earlier}`, {
      hint: 'The files belong to different models: fetch them again.',
      details: { file, tensor },
    }),
};

async function readAt(
  { handle, path, name, size }: RegularFile,
  at: number,
  length: number,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  // Compared before allocating: no claim of the file makes a buffer larger than the file.
  if (at < 0 || length < 0 || at + length > size) throw badPickle(name, `bytes ${at} to ${at + length} of a file of ${size}`);
  const data = allocate(name, length);
  const bytes = await guarded('read', path, () => readFully(handle, data, at, signal));
  if (bytes < length) throw badPickle(name, 'the file became shorter while it was open');
  return data;
}
