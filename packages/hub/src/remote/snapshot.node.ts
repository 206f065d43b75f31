// A commit of a model in the cache: which of its files are there, and a folder that reads those from the disk and fetches the others.

import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { openRegular } from '../file-source.node.ts';
import type { ModelFolder } from '../folder.ts';
import { guarded } from '../io.node.ts';
import type { CachePlaces } from './cache.node.ts';
import type { HubClient } from './client.ts';
import { remoteFolder } from './folder.ts';
import type { RemoteEntry, RemoteListing } from './listing.ts';

/** Where the snapshot of a listing has a file. */
export function pointerOf(places: CachePlaces, { commit }: RemoteListing, { path }: RemoteEntry): string {
  return join(places.snapshot(commit), ...path.split('/'));
}

/** Whether a file of that size is there. */
export async function isThere(path: string, { size }: RemoteEntry): Promise<boolean> {
  return stat(path).then(
    (info) => info.isFile() && info.size === size,
    () => false,
  );
}

/** Those of the entries that the cache does not have. */
export async function missingFiles(
  places: CachePlaces,
  listing: RemoteListing,
  entries: readonly RemoteEntry[],
): Promise<readonly RemoteEntry[]> {
  const missing: RemoteEntry[] = [];
  for (const entry of entries) if (!(await isThere(pointerOf(places, listing, entry), entry))) missing.push(entry);
  return missing;
}

/** The model as a folder: what the cache has is read there, what it lacks is fetched. */
export function cachedFolder(places: CachePlaces, client: HubClient, listing: RemoteListing): ModelFolder {
  const remote = remoteFolder(client, listing);
  const kept = async (name: string): Promise<string | undefined> => {
    const entry = listing.entries.get(name);
    const path = entry === undefined ? undefined : pointerOf(places, listing, entry);
    return path !== undefined && (await isThere(path, entry!)) ? path : undefined;
  };
  return {
    ...remote,
    async read(name, maxBytes) {
      const path = (listing.entries.get(name)?.size ?? 0) > maxBytes ? undefined : await kept(name);
      return path === undefined ? remote.read(name, maxBytes) : guarded('read', path, () => readFile(path));
    },
    async open(name, signal) {
      const path = await kept(name);
      return path === undefined ? remote.open(name, signal) : openRegular(path, signal);
    },
  };
}
