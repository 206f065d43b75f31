// A model on a hub as a folder that a checkpoint is read from: small files whole, checked by their digests, weights in ranges, nothing kept on disk.

import { LowbitError } from '@lowbit/core';
import type { RandomFile } from '../file.ts';
import { insideParts, type ModelFolder, tooLarge } from '../folder.ts';
import type { HubClient } from './client.ts';
import { checkDigest } from './digests.ts';
import { fetchRange, type RemoteSource, remoteSource } from './fetch-range.ts';
import type { RemoteEntry, RemoteListing } from './listing.ts';
import { createWindows, type Windows } from './windows.ts';

export function remoteFolder(client: HubClient, listing: RemoteListing): ModelFolder {
  const { entries } = listing;
  const path = `${client.endpoint}/${listing.name}`;
  const windows = createWindows();
  const small = new Map<string, Uint8Array>();
  const entryOf = (name: string): RemoteEntry | undefined => entries.get(name);

  async function read(name: string, maxBytes: number): Promise<Uint8Array | undefined> {
    const entry = entryOf(insideParts(path, name, path).join('/'));
    if (entry === undefined) return undefined;
    if (entry.size > maxBytes) throw tooLarge(`${path}/${name}`, entry.size, maxBytes);
    const known = small.get(name);
    if (known !== undefined) return known.slice();
    const bytes = await fetchBytes(remoteSource(client, listing, entry), 0, entry.size, undefined);
    await checkDigest(entry, bytes);
    small.set(name, bytes);
    return bytes.slice();
  }

  return {
    path,
    async resolve(name, from) {
      const inside = insideParts(path, name, from).join('/');
      return entryOf(inside) === undefined ? undefined : inside;
    },
    read,
    names: async () => [...entries.keys()].filter((name) => !name.includes('/')),
    bytes: async (name) => entryOf(name)?.size,
    open: async (name) => openRemote(remoteSource(client, listing, entryOf(name)!), windows),
  };
}

function openRemote(source: RemoteSource, windows: Windows): RandomFile {
  const { client, listing, entry } = source;
  let closed = false;
  /** Where the last reads ended: one that goes on there is part of a reading from end to end, and only such are worth fetching ahead for. */
  const ends: number[] = [];
  return {
    path: `${client.endpoint}/${listing.name}/${entry.path}`,
    name: entry.path,
    size: entry.size,
    // Equal digests are equal contents.
    state: JSON.stringify([entry.path, entry.size, entry.etag]),
    far: true,
    async read(into, at, signal, until = at + into.byteLength) {
      if (closed) throw new LowbitError('ERR_DISPOSED', `${entry.path} is closed`);
      const end = Math.min(entry.size, at + into.byteLength);
      if (end <= at) return 0;
      const fetch = (from: number, to: number, signal: AbortSignal) => fetchBytes(source, from, to, signal);
      const goesOn = ends.includes(at);
      ends.push(end);
      if (ends.length > 16) ends.shift();
      await windows.read(source, into.subarray(0, end - at), at, goesOn ? Math.min(entry.size, until) : end, fetch, signal);
      return end - at;
    },
    async close() {
      closed = true;
      windows.drop(source);
    },
  };
}

async function fetchBytes(source: RemoteSource, from: number, to: number, signal: AbortSignal | undefined): Promise<Uint8Array> {
  const bytes = new Uint8Array(to - from);
  await fetchRange(source, from, to, (piece, at) => bytes.set(piece, at - from), signal);
  return bytes;
}
