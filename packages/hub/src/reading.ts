// What every tensor source checks before it reads.

import { LowbitError, quote, type TensorSource } from '@lowbit/core';
import type { RandomFile } from './file.ts';

/** A file that holds tensors of a source. */
export interface SourceFile {
  readonly path: string;
  /** Bytes on disk. */
  readonly size: number;
}

/** Tensors of files on disk, in whatever form they are stored. */
export interface FileSource extends TensorSource {
  readonly files: readonly SourceFile[];
  /**
   * Another one when any of the files changes: their paths, lengths, and when each was last changed, as the system says. Undefined for files that were
   * changed so short a time before that a further change might look the same.
   */
  readonly state: string | undefined;
  /** Where a tensor lies as it is, in a file that is near; undefined for others. */
  readonly place?: (name: string) => TensorPlace | undefined;
}

/** Bytes of a file. */
export interface TensorPlace {
  readonly file: Pick<RandomFile, 'read'>;
  readonly at: number;
  readonly bytes: number;
}

/** The ERR_TENSOR_MISMATCH for a name that a source does not have. */
export function noTensor(name: string, label: string): LowbitError {
  return new LowbitError('ERR_TENSOR_MISMATCH', `${label} has no tensor ${quote(name)}`, { details: { tensor: name, source: label } });
}

/** A buffer for a tensor. Throws ERR_LIMIT if there is no room for it. */
export function allocate(tensor: string, bytes: number): Uint8Array {
  try {
    return new Uint8Array(bytes);
  } catch (cause) {
    throw new LowbitError('ERR_LIMIT', `${quote(tensor)}: ${bytes} bytes do not fit into one buffer`, {
      hint: 'Read it in ranges.',
      details: { tensor, bytes },
      cause,
    });
  }
}
