// The Cache API as storage, where there is no private file system: a file is an entry that tells its size, and one entry per chunk.

import type { BlobLike, CacheLike } from './dom.ts';
import { oneByOne, type StorageFile, type StorageFolder, type StorageRoot } from './storage.ts';

const CHUNK = 4 * 1024 * 1024;
/** Chunks in memory that are not in the cache yet: more are written out before their flush. */
const MAX_DIRTY = 8;
/** Caches take any address of the web; this one can never be fetched. */
const BASE = 'https://lowbit.invalid/';

export function cacheRoot(cache: CacheLike): StorageRoot {
  const paths = async (): Promise<string[][]> =>
    (await cache.keys()).map(({ url }) => url.slice(BASE.length).replace(/\?.*$/, '').split('/').map(decodeURIComponent));
  return {
    kind: 'cache',
    async folders() {
      return [...new Set((await paths()).map(([folder]) => folder!))];
    },
    folder: (name) => cacheFolder(cache, name, paths),
    async removeFolder(name) {
      const start = `${BASE}${encodeURIComponent(name)}/`;
      for (const { url } of await cache.keys()) if (url.startsWith(start)) await cache.delete(url);
    },
  };
}

function cacheFolder(cache: CacheLike, folder: string, paths: () => Promise<string[][]>): StorageFolder {
  const address = (name: string) => `${BASE}${encodeURIComponent(folder)}/${encodeURIComponent(name)}`;
  return {
    async names() {
      return [...new Set((await paths()).flatMap(([of, name]) => (of === folder && name ? [name] : [])))];
    },
    async blob(name) {
      const size = await sizeOf(cache, address(name));
      if (size === undefined) return undefined;
      const chunks: BlobLike[] = [];
      for (let at = 0; at < size; at += CHUNK) {
        const wanted = Math.min(CHUNK, size - at);
        const chunk = await (await cache.match(chunkAddress(address(name), at / CHUNK)))?.blob();
        if (chunk) chunks.push(chunk.slice(0, wanted));
        const missing = wanted - (chunk?.size ?? 0);
        if (missing > 0) chunks.push(new Blob([new Uint8Array(missing)]));
      }
      return new Blob(chunks as Blob[]);
    },
    async open(name) {
      const at = address(name);
      return chunked(cache, at, (await sizeOf(cache, at)) ?? 0);
    },
    mark: (name) => putSize(cache, address(name), 0),
    async remove(name) {
      const at = address(name);
      await cache.delete(at); // first: without it the file does not exist
      for (const { url } of await cache.keys()) if (url.startsWith(`${at}?`)) await cache.delete(url);
    },
  };
}

const chunkAddress = (file: string, chunk: number): string => `${file}?${chunk}`;

async function sizeOf(cache: CacheLike, file: string): Promise<number | undefined> {
  const entry = await (await cache.match(file))?.blob();
  return entry && Number(new TextDecoder().decode(await entry.arrayBuffer()));
}

function putSize(cache: CacheLike, file: string, size: number): Promise<void> {
  return cache.put(file, new Response(String(size)));
}

function chunked(cache: CacheLike, file: string, start: number): StorageFile {
  const queue = oneByOne();
  const dirty = new Map<number, Uint8Array>();
  let size = start;
  let sizeIsNew = true;

  /** All bytes of a chunk, zeros where nothing was written. */
  async function load(chunk: number): Promise<Uint8Array> {
    const waiting = dirty.get(chunk);
    if (waiting) return waiting;
    const data = new Uint8Array(CHUNK);
    const stored = await (await cache.match(chunkAddress(file, chunk)))?.blob();
    if (stored) data.set(new Uint8Array(await stored.arrayBuffer()));
    return data;
  }

  async function putOldest(): Promise<void> {
    const [chunk, data] = dirty.entries().next().value!;
    await cache.put(chunkAddress(file, chunk), new Response(data.slice(0, Math.min(CHUNK, size - chunk * CHUNK))));
    dirty.delete(chunk);
  }

  async function flush(): Promise<void> {
    while (dirty.size > 0) await putOldest();
    if (sizeIsNew) await putSize(cache, file, size);
    sizeIsNew = false;
  }

  return {
    size: () => queue(async () => size),
    read: (into, at) =>
      queue(async () => {
        const end = Math.min(size, at + into.byteLength);
        for (let from = at; from < end; ) {
          const chunk = Math.floor(from / CHUNK);
          const to = Math.min(end, (chunk + 1) * CHUNK);
          into.set((await load(chunk)).subarray(from - chunk * CHUNK, to - chunk * CHUNK), from - at);
          from = to;
        }
        return Math.max(0, end - at);
      }),
    write: (data, at) =>
      queue(async () => {
        const end = at + data.byteLength;
        if (end > size) {
          size = end;
          sizeIsNew = true;
        }
        for (let from = at; from < end; ) {
          const chunk = Math.floor(from / CHUNK);
          const to = Math.min(end, (chunk + 1) * CHUNK);
          const bytes = await load(chunk);
          bytes.set(data.subarray(from - at, to - at), from - chunk * CHUNK);
          dirty.set(chunk, bytes);
          if (dirty.size > MAX_DIRTY) await putOldest();
          from = to;
        }
      }),
    truncate: (to) =>
      queue(async () => {
        const last = Math.floor(to / CHUNK);
        if (to < size) {
          // What is cut off must be zeros if the file grows again.
          const rest = await load(last);
          rest.fill(0, to - last * CHUNK);
          dirty.set(last, rest);
          for (let chunk = last + 1; chunk * CHUNK < size; chunk++) {
            dirty.delete(chunk);
            await cache.delete(chunkAddress(file, chunk));
          }
        }
        // Room is taken at once, so that a quota that is too small shows before the work and not after it.
        for (let chunk = Math.ceil(size / CHUNK); chunk * CHUNK < to; chunk++) {
          await cache.put(chunkAddress(file, chunk), new Response(new Uint8Array(Math.min(CHUNK, to - chunk * CHUNK))));
        }
        size = to;
        sizeIsNew = true;
      }),
    flush: () => queue(flush),
    close: () => queue(flush),
  };
}
