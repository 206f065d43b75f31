// A model of a hub for whoever reads it: from the cache as far as it is there, the rest in ranges.

import { join } from 'node:path';
import { type FolderCheckpoint, openCheckpoint } from '../checkpoint.node.ts';
import { type OpenCheckpointOptions, openModelFolder } from '../checkpoint.ts';
import { ggufFolder } from '../gguf/folder.ts';
import { isTokenizer } from '../model-files.ts';
import { cachedSnapshot, cachePlaces } from './cache.node.ts';
import type { RemoteCheckpoint } from './checkpoint.ts';
import type { HubClient } from './client.ts';
import { listModel } from './listing.ts';
import { parseHubName, type RepoName } from './repo.ts';
import { selectFiles } from './select.ts';
import { type HubSettings, hubClient, hubSettings } from './settings.node.ts';
import { cachedFolder, missingFiles } from './snapshot.node.ts';

/** Of `openHubCheckpoint`. */
export interface OpenHubOptions extends OpenCheckpointOptions {
  readonly settings?: HubSettings | undefined;
  readonly client?: HubClient | undefined;
}

/**
 * Opens `org/name`, `org/name@revision`, or a GGUF file of it (`org/name/file.gguf`) as the environment says, without downloading it: a copy in the cache that has all that a model needs, of the
 * commit that the revision means now, is read there. What a partial copy lacks is fetched, weights in ranges. Offline a copy is taken as it is; `notes`
 * says if it has no tokenizer. Throws what `openRemoteCheckpoint` throws, and ERR_OFFLINE_MISS.
 */
export async function openHubCheckpoint(name: string, options: OpenHubOptions = {}): Promise<FolderCheckpoint | RemoteCheckpoint> {
  const { settings = await hubSettings(), client = hubClient(settings), ...rest } = options;
  const { repo, file } = parseHubName(name);
  if (settings.offline) return openOffline(settings.cacheDir, repo, file, rest);
  const remote = await listModel(client, repo, { signal: rest.signal });
  const places = cachePlaces(settings.cacheDir, repo.name);
  const folder = cachedFolder(places, client, remote);
  if (file !== undefined) {
    const entry = remote.entries.get(file);
    if (entry !== undefined && (await missingFiles(places, remote, [entry])).length === 0) {
      return openCheckpoint(join(places.snapshot(remote.commit), file), rest);
    }
    return { ...(await openModelFolder(await ggufFolder(folder, file, { licences: true, signal: rest.signal }), rest)), remote };
  }
  // Python libraries often fetch the config and the weights alone.
  const missing = await missingFiles(places, remote, await selectFiles(remote, folder, {}));
  if (missing.length === 0) return openCheckpoint(places.snapshot(remote.commit), rest);
  return { ...(await openModelFolder(folder, rest)), remote };
}

async function openOffline(
  cacheDir: string,
  repo: RepoName,
  file: string | undefined,
  options: OpenCheckpointOptions,
): Promise<FolderCheckpoint> {
  const snapshot = await cachedSnapshot(cacheDir, repo);
  if (file !== undefined) return openCheckpoint(join(snapshot, file), options);
  const checkpoint = await openCheckpoint(snapshot, options);
  if (checkpoint.files.some(isTokenizer)) return checkpoint;
  const note = `The cache has no tokenizer of ${repo.name}. If the model has one, unset HF_HUB_OFFLINE and fetch it: lowbit pull ${repo.name}.`;
  return { ...checkpoint, notes: [...checkpoint.notes, note] };
}
