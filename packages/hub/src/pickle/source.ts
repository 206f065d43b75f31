// Files of torch.save as tensors: pickles are read once, tensors by reads of the bytes asked for.

import { DTYPE_BYTES, LowbitError, quote } from '@lowbit/core';
import type { RandomFile } from '../file.ts';
import type { FileFormat } from '../file-source.ts';
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

export const TORCH: FileFormat<TorchFile> = {
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

async function readAt(opened: RandomFile, at: number, length: number, signal: AbortSignal | undefined): Promise<Uint8Array> {
  const { name, size } = opened;
  // Compared before allocating: no claim of the file makes a buffer larger than the file.
  if (at < 0 || length < 0 || at + length > size) throw badPickle(name, `bytes ${at} to ${at + length} of a file of ${size}`);
  const data = allocate(name, length);
  const bytes = await opened.read(data, at, signal);
  if (bytes < length) throw badPickle(name, 'the file became shorter while it was open');
  return data;
}
