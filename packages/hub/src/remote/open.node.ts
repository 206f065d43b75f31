// A model of a hub for whoever reads it: from the cache as far as it is there, the rest in ranges.

import { type FolderCheckpoint, openCheckpoint } from '../checkpoint.node.ts';
import { type OpenCheckpointOptions, openModelFolder } from '../checkpoint.ts';
import { isTokenizer } from '../model-files.ts';
import { cachedSnapshot, cachePlaces } from './cache.node.ts';
import type { RemoteCheckpoint } from './checkpoint.ts';
import type { HubClient } from './client.ts';
import { listModel } from './listing.ts';
import { parseRepoName, type RepoName } from './repo.ts';
import { selectFiles } from './select.ts';
import { type HubSettings, hubClient, hubSettings } from './settings.node.ts';
import { cachedFolder, missingFiles } from './snapshot.node.ts';

/** Of `openHubCheckpoint`. */
export interface OpenHubOptions extends OpenCheckpointOptions {
  readonly settings?: HubSettings | undefined;
  readonly client?: HubClient | undefined;
}

/**
 * Opens `org/name` or `org/name@revision` as the environment says, without downloading it: a copy in the cache that has all that a model needs, of the
 * commit that the revision means now, is read there. What a partial copy lacks is fetched, weights in ranges. Offline a copy is taken as it is; `notes`
 * says if it has no tokenizer. Throws what `openRemoteCheckpoint` throws, and ERR_OFFLINE_MISS.
 */
export async function openHubCheckpoint(name: string, options: OpenHubOptions = {}): Promise<FolderCheckpoint | RemoteCheckpoint> {
  const { settings = await hubSettings(), client = hubClient(settings), ...rest } = options;
  const repo = parseRepoName(name);
  if (settings.offline) return openOffline(settings.cacheDir, repo, rest);
  const remote = await listModel(client, repo, { signal: rest.signal });
  const places = cachePlaces(settings.cacheDir, repo.name);
  const folder = cachedFolder(places, client, remote);
  // Python libraries often fetch the config and the weights alone.
  const missing = await missingFiles(places, remote, await selectFiles(remote, folder, {}));
  if (missing.length === 0) return openCheckpoint(places.snapshot(remote.commit), rest);
  return { ...(await openModelFolder(folder, rest)), remote };
}

async function openOffline(cacheDir: string, repo: RepoName, options: OpenCheckpointOptions): Promise<FolderCheckpoint> {
  const checkpoint = await openCheckpoint(await cachedSnapshot(cacheDir, repo), options);
  if (checkpoint.files.some(isTokenizer)) return checkpoint;
  const note = `The cache has no tokenizer of ${repo.name}. If the model has one, unset HF_HUB_OFFLINE and fetch it: lowbit pull ${repo.name}.`;
  return { ...checkpoint, notes: [...checkpoint.notes, note] };
}
