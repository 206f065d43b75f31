// The origin's private file system. Workers write in place through access handles; windows have only streams, which copy a file to change it.

import { LowbitError } from '@lowbit/core';
import type { PrivateDirectoryLike, PrivateFileLike, SyncAccessHandleLike, WritableFileLike } from './dom.ts';
import { isNotFound } from './io.ts';
import { oneByOne, type StorageFile, type StorageFolder, type StorageRoot } from './storage.ts';

export function opfsRoot(directory: PrivateDirectoryLike): StorageRoot {
  return {
    kind: 'opfs',
    async folders() {
      const names: string[] = [];
      for await (const entry of directory.values()) if (entry.kind === 'directory') names.push(entry.name);
      return names;
    },
    folder: (name) => opfsFolder(directory, name),
    removeFolder: (name) => ignoreMissing(directory.removeEntry(name, { recursive: true })),
  };
}

function opfsFolder(parent: PrivateDirectoryLike, folder: string): StorageFolder {
  const existing = () => parent.getDirectoryHandle(folder).catch(undefinedIfMissing);
  const made = () => parent.getDirectoryHandle(folder, { create: true });
  return {
    async names() {
      const names: string[] = [];
      for await (const entry of (await existing())?.values() ?? []) if (entry.kind === 'file') names.push(entry.name);
      return names;
    },
    async blob(name) {
      const handle = await (await existing())?.getFileHandle(name).catch(undefinedIfMissing);
      return handle?.getFile();
    },
    async open(name) {
      const handle = await (await made()).getFileHandle(name, { create: true });
      if (handle.createSyncAccessHandle) return inPlace(await handle.createSyncAccessHandle());
      return streamed(handle);
    },
    async mark(name) {
      await (await made()).getFileHandle(name, { create: true });
    },
    async remove(name) {
      await ignoreMissing((await existing())?.removeEntry(name));
    },
  };
}

/** Whether files can be written at all: some browsers allow it in workers only. */
export async function isWritable(directory: PrivateDirectoryLike): Promise<boolean> {
  const probe = '.probe';
  const handle = await directory.getFileHandle(probe, { create: true }).catch((error: unknown) => {
    // A full disk: what is saved must be found all the same, to be removed.
    if ((error as { readonly name?: string }).name !== 'QuotaExceededError') throw error;
  });
  if (handle === undefined) return true;
  await ignoreMissing(directory.removeEntry(probe)); // another tab may have been quicker
  return handle.createSyncAccessHandle !== undefined || handle.createWritable !== undefined;
}

function inPlace(handle: SyncAccessHandleLike): StorageFile {
  let closed = false;
  return {
    size: async () => handle.getSize(),
    read: async (into, at) => handle.read(into, { at }),
    async write(data, at) {
      let done = 0;
      while (done < data.byteLength) {
        const took = handle.write(data.subarray(done), { at: at + done });
        if (took === 0) throw Object.assign(new Error('the write took no bytes'), { name: 'QuotaExceededError' });
        done += took;
      }
    },
    truncate: async (size) => handle.truncate(size),
    flush: async () => handle.flush(),
    async close() {
      if (closed) return;
      closed = true;
      handle.close();
    },
  };
}

/** Each `flush` after a write ends the stream, which makes it durable, and the next write begins another: that copies the whole file. */
function streamed(handle: PrivateFileLike): StorageFile {
  const queue = oneByOne();
  let open: WritableFileLike | undefined;
  async function stream(): Promise<WritableFileLike> {
    if (!handle.createWritable) {
      throw new LowbitError('ERR_IO', 'this browser writes its private files in workers only', { hint: 'Open the store in a worker.' });
    }
    open ??= await handle.createWritable({ keepExistingData: true });
    return open;
  }
  /** A stream that failed is of no use any more. */
  async function change(work: (stream: WritableFileLike) => Promise<void>): Promise<void> {
    try {
      await work(await stream());
    } catch (error) {
      open = undefined;
      throw error;
    }
  }
  async function end(): Promise<void> {
    const ending = open;
    open = undefined;
    await ending?.close();
  }
  return {
    size: () =>
      queue(async () => {
        await end();
        return (await handle.getFile()).size;
      }),
    read: (into, at) =>
      queue(async () => {
        await end();
        const piece = new Uint8Array(await (await handle.getFile()).slice(at, at + into.byteLength).arrayBuffer());
        into.set(piece);
        return piece.byteLength;
      }),
    // A copy: the stream may look at the data later.
    write: (data, at) => queue(() => change((stream) => stream.write({ type: 'write', position: at, data: data.slice() }))),
    truncate: (size) => queue(() => change((stream) => stream.truncate(size))),
    flush: () => queue(end),
    close: () => queue(end),
  };
}

function undefinedIfMissing(error: unknown): undefined {
  if (isNotFound(error)) return undefined;
  throw error;
}

async function ignoreMissing(work: Promise<void> | undefined): Promise<void> {
  await work?.catch(undefinedIfMissing);
}
