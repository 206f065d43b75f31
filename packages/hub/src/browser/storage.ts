// What a browser's store is built on: folders of files that are written in pieces. Two kinds exist, the origin's private file system and the Cache API.

import type { BlobLike } from './dom.ts';

/** A file that is open for writing; only one at a time of each. */
export interface StorageFile {
  size(): Promise<number>;
  /** Bytes read, less only at the end of the file. */
  read(into: Uint8Array, at: number): Promise<number>;
  /** The data are the caller's again when it resolves. */
  write(data: Uint8Array, at: number): Promise<void>;
  truncate(size: number): Promise<void>;
  /** What was written so far survives the end of the tab from here on. */
  flush(): Promise<void>;
  close(): Promise<void>;
}

export interface StorageFolder {
  names(): Promise<readonly string[]>;
  /** What the file holds now, to be read in slices; undefined if there is none. Not to be read any more once the file was written to. */
  blob(name: string): Promise<BlobLike | undefined>;
  /** Opens a file, made if it is not there. */
  open(name: string): Promise<StorageFile>;
  /** Makes an empty file at once and durably: it is there, or it is not. */
  mark(name: string): Promise<void>;
  /** Does nothing if there is none. */
  remove(name: string): Promise<void>;
}

export interface StorageRoot {
  readonly kind: 'opfs' | 'cache';
  folders(): Promise<readonly string[]>;
  /** The folder of that name, which need not exist yet. */
  folder(name: string): StorageFolder;
  removeFolder(name: string): Promise<void>;
}

/** Runs what it is given one after another. */
export function oneByOne(): <T>(work: () => Promise<T>) => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  return (work) => {
    const next = last.then(work, work);
    last = next.catch(() => {});
    return next;
  };
}
