// Model folders of a browser that are read as blobs: chosen or dropped files, directory handles, stored models. Only the slices that are asked for are
// ever in memory.

import { LowbitError } from '@lowbit/core';
import type { RandomFile } from '../file.ts';
import { insideParts, type ModelFolder, tooLarge } from '../folder.ts';
import type { BlobLike, DirectoryHandleLike, FileLike } from './dom.ts';
import { guarded, isNotFound } from './io.ts';

/** A file of a folder. Browsers know when chosen files were last changed. */
type Found = BlobLike & { readonly lastModified?: number };

/** Bytes per read: a bound on how long an abort waits. */
const PIECE = 16 * 1024 * 1024;

/** Reads a blob in pieces. */
function blobFile(path: string, blob: Found): RandomFile {
  return {
    path,
    name: path.replace(/^.*\//, ''),
    size: blob.size,
    // A file that changes afterwards cannot be read any more.
    state: blob.lastModified === undefined ? undefined : JSON.stringify([path, blob.size, blob.lastModified]),
    async read(into, at, signal) {
      const end = Math.min(blob.size, at + into.byteLength);
      for (let from = at; from < end; from += PIECE) {
        signal?.throwIfAborted();
        const piece = blob.slice(from, Math.min(end, from + PIECE));
        into.set(new Uint8Array(await guarded('read', path, () => piece.arrayBuffer())), from - at);
      }
      return Math.max(0, end - at);
    },
    async close() {},
  };
}

/** A folder whose files `find` gives by the parts of their names. */
export function blobFolder(
  label: string,
  names: () => Promise<readonly string[]>,
  find: (parts: readonly string[]) => Promise<Found | undefined>,
): ModelFolder {
  const found = (name: string, from = label) => guarded('open', `${label}/${name}`, () => find(insideParts(label, name, from)));
  return {
    path: label,
    names,
    async resolve(name, from) {
      return (await found(name, from)) === undefined ? undefined : `${label}/${name}`;
    },
    async bytes(name) {
      return (await found(name))?.size;
    },
    async read(name, maxBytes) {
      const blob = await found(name);
      if (blob === undefined) return undefined;
      if (blob.size > maxBytes) throw tooLarge(`${label}/${name}`, blob.size, maxBytes);
      return new Uint8Array(await guarded('read', `${label}/${name}`, () => blob.arrayBuffer()));
    },
    async open(path) {
      const blob = await found(path.slice(label.length + 1));
      if (blob === undefined)
        throw new LowbitError('ERR_NOT_FOUND', `cannot open ${path}: it does not exist`, { hint: 'Choose it again.' });
      return blobFile(path, blob);
    },
  };
}

/** A file with its path: workers are sent files without it. */
export interface PathFile {
  /** `folder/name`; the folder's own name in front is left out. */
  readonly path: string;
  readonly file: FileLike;
}

/**
 * The files of `<input type="file" webkitdirectory>` or of a drop, as a folder. The name of the chosen folder in front of their paths is left out.
 * Throws ERR_NOT_FOUND without any files.
 */
export function filesFolder(files: Iterable<FileLike | PathFile>): ModelFolder {
  if (typeof files?.[Symbol.iterator] !== 'function')
    throw new LowbitError('ERR_BAD_ARGUMENT', 'filesFolder needs files', { hint: 'Pass input.files.' });
  const list = [...files].map((one) => ('path' in one ? one : { file: one, path: one.webkitRelativePath || one.name }));
  const [first] = list;
  if (first === undefined) {
    throw new LowbitError('ERR_NOT_FOUND', 'no files were chosen', { hint: 'Choose the folder that holds config.json and *.safetensors.' });
  }
  const top = first.path.slice(0, first.path.indexOf('/') + 1);
  const strip = top !== '' && list.every(({ path }) => path.startsWith(top)) ? top.length : 0;
  const byName = new Map(list.map(({ file, path }) => [path.slice(strip), file] as const));
  return blobFolder(
    top === '' ? 'the chosen files' : top.slice(0, -1),
    async () => [...byName.keys()].filter((name) => !name.includes('/')),
    async (parts) => byName.get(parts.join('/')),
  );
}

/** A folder of `showDirectoryPicker`, of a drop, or of the origin's private file system. */
export function directoryFolder(directory: DirectoryHandleLike, label: string = directory.name || 'the folder'): ModelFolder {
  return blobFolder(
    label,
    () =>
      guarded('open', label, async () => {
        const names: string[] = [];
        for await (const entry of directory.values()) if (entry.kind === 'file') names.push(entry.name);
        return names;
      }),
    async (parts) => {
      try {
        let folder = directory;
        for (const part of parts.slice(0, -1)) folder = await folder.getDirectoryHandle(part);
        return await (await folder.getFileHandle(parts.at(-1)!)).getFile();
      } catch (error) {
        // A folder of that name is no file; names that the system refuses are none either.
        if (isNotFound(error) || ['TypeMismatchError', 'TypeError'].includes((error as Error).name)) return undefined;
        throw error;
      }
    },
  );
}
