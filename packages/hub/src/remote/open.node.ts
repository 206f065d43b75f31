// A model of a hub for whoever reads it: from the cache if it is there as a whole, else in ranges.

import { isLowbitError } from '@lowbit/core';
import { type FolderCheckpoint, openCheckpoint } from '../checkpoint.node.ts';
import { type OpenCheckpointOptions, openModelFolder } from '../checkpoint.ts';
import { cachedSnapshot, cachePlaces } from './cache.node.ts';
import type { RemoteCheckpoint } from './checkpoint.ts';
import type { HubClient } from './client.ts';
import { remoteFolder } from './folder.ts';
import { listModel } from './listing.ts';
import { parseRepoName } from './repo.ts';
import { type HubSettings, hubClient, hubSettings } from './settings.node.ts';

export interface OpenHubOptions extends OpenCheckpointOptions {
  readonly settings?: HubSettings | undefined;
  readonly client?: HubClient | undefined;
}

/**
 * Opens `org/name` or `org/name@revision` as the environment says, without downloading it: a copy in the cache that is whole and of the commit that the
 * revision means now is read there. Throws what `openRemoteCheckpoint` throws, and ERR_OFFLINE_MISS.
 */
export async function openHubCheckpoint(name: string, options: OpenHubOptions = {}): Promise<FolderCheckpoint | RemoteCheckpoint> {
  const { settings = await hubSettings(), client = hubClient(settings), ...rest } = options;
  const repo = parseRepoName(name);
  if (settings.offline) return openCheckpoint(await cachedSnapshot(settings.cacheDir, repo), rest);
  const remote = await listModel(client, repo, { signal: rest.signal });
  try {
    return await openCheckpoint(cachePlaces(settings.cacheDir, repo.name).snapshot(remote.commit), rest);
  } catch (error) {
    if (!isLowbitError(error, 'ERR_NOT_FOUND')) throw error; // nothing, or not all of it
  }
  return { ...(await openModelFolder(remoteFolder(client, remote), rest)), remote };
}
