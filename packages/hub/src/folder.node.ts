// A model folder on disk, read in a way that never leaves it.
// Folders come from strangers, so a weight_map or a symbolic link must not make us read (and later copy or upload) files from elsewhere.

import { open, readdir, realpath, stat } from 'node:fs/promises';
import { join, resolve, sep } from 'node:path';
import { LowbitError } from '@lowbit/core';
import { openRegular } from './file-source.node.ts';
import { insideParts, type ModelFolder, refuseName, tooLarge } from './folder.ts';
import { errnoOf, guarded, readFully } from './io.node.ts';

/** A folder and the places that its symbolic links may point to. */
export interface Folder {
  /** As given, resolved against the working directory. */
  readonly path: string;
  /** Real paths that a file of the folder may lie under. */
  readonly roots: readonly string[];
}

/** Opens a folder. Throws ERR_NOT_FOUND if there is none, ERR_IO if it is a file or not readable. */
export async function openFolder(dir: string): Promise<Folder> {
  const path = resolve(dir);
  const info = await guarded('open', path, () => stat(path));
  if (!info.isDirectory()) {
    throw new LowbitError('ERR_IO', `cannot open ${path}: it is a file, not a model folder`, {
      hint: 'Pass the folder that holds config.json.',
      details: { path },
    });
  }
  const real = await guarded('open', path, () => realpath(path));
  // The Hugging Face cache keeps the bytes in <repo>/blobs and links to them from <repo>/snapshots/<revision>; since huggingface_hub 2 what repositories have
  // in common lies in the cache's own blobs, and <repo>/blobs links there.
  const cache = new RegExp(`^((.*)\\${sep}models--[^\\${sep}]+)\\${sep}snapshots\\${sep}[^\\${sep}]+(?:\\${sep}.*)?$`).exec(real);
  return { path, roots: cache === null ? [real] : [real, join(cache[1]!, 'blobs'), join(cache[2]!, 'blobs')] };
}

/**
 * Absolute path of a file inside the folder, or undefined if it does not exist. Throws ERR_BAD_CHECKPOINT for names with `..`, absolute names
 * and links out of the folder (`from` says who named it).
 */
async function resolveInside(folder: Folder, name: string, from: string): Promise<string | undefined> {
  const path = join(folder.path, ...insideParts(folder.path, name, from));
  let real: string;
  try {
    real = await realpath(path);
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'ENOENT' || errno === 'ENOTDIR') return undefined;
    return guarded('open', path, () => Promise.reject(error));
  }
  if (!folder.roots.some((root) => real === root || real.startsWith(root + sep)))
    throw refuseName(folder.path, name, from, 'which is a link to outside of the folder');
  return path;
}

/** A whole file, at most `maxBytes` of it; undefined if there is none. Throws ERR_LIMIT if it is larger. */
export async function readInside(folder: Folder, name: string, maxBytes: number): Promise<Uint8Array | undefined> {
  const path = await resolveInside(folder, name, folder.path);
  if (path === undefined) return undefined;
  return guarded('read', path, async () => {
    // Before opening: a named pipe would block for ever.
    if (!(await stat(path)).isFile()) return undefined;
    const handle = await open(path, 'r');
    try {
      const { size } = await handle.stat();
      if (size > maxBytes) {
        throw tooLarge(path, size, maxBytes);
      }
      const data = new Uint8Array(size);
      return data.subarray(0, await readFully(handle, data, 0));
    } finally {
      await handle.close();
    }
  });
}

/** The folder as what a checkpoint is read from. */
export function modelFolder(folder: Folder): ModelFolder {
  const { path } = folder;
  return {
    path,
    resolve: (name, from) => resolveInside(folder, name, from),
    read: (name, maxBytes) => readInside(folder, name, maxBytes),
    names: () => guarded('open', path, () => readdir(path)),
    async bytes(name) {
      try {
        const file = await resolveInside(folder, name, path);
        const info = file === undefined ? undefined : await stat(file);
        return info?.isFile() ? info.size : undefined;
      } catch (error) {
        if (errnoOf(error) === undefined && !(error instanceof LowbitError)) throw error;
        return undefined;
      }
    },
    open: openRegular,
  };
}
