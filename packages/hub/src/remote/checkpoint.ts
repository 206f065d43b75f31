// A checkpoint on a hub, read in ranges: nothing of it is kept on disk.

import { type OpenCheckpointOptions, openModelFolder, type StoredCheckpoint } from '../checkpoint.ts';
import type { HubClient } from './client.ts';
import { remoteFolder } from './folder.ts';
import { listModel, type RemoteListing } from './listing.ts';
import { parseRepoName } from './repo.ts';

export interface RemoteCheckpoint extends StoredCheckpoint {
  readonly remote: RemoteListing;
}

/**
 * Opens `org/name` or `org/name@revision` without downloading it: config.json, headers and small tensors are fetched now, weights when they are read,
 * exactly the bytes asked for. Ranges cannot be checked against the digest of their file: sizes, the names of contents that the hub's headers give, and
 * the connection are what is trusted.
 * @throws ERR_NOT_FOUND, ERR_GATED_REPO, ERR_ACCESS_DENIED, ERR_NETWORK, ERR_INTEGRITY, and what `openCheckpoint` throws
 */
export async function openRemoteCheckpoint(
  name: string,
  options: OpenCheckpointOptions & { readonly client: HubClient },
): Promise<RemoteCheckpoint> {
  const { client, ...rest } = options;
  const remote = await listModel(client, parseRepoName(name), { signal: rest.signal });
  const checkpoint = await openModelFolder(remoteFolder(client, remote), rest);
  return { ...checkpoint, remote };
}
