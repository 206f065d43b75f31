// A checkpoint on a hub, read in ranges: nothing of it is kept on disk.

import { type OpenCheckpointOptions, openModelFolder, type StoredCheckpoint } from '../checkpoint.ts';
import { ggufFolder } from '../gguf/folder.ts';
import type { HubClient } from './client.ts';
import { remoteFolder } from './folder.ts';
import { listModel, type RemoteListing } from './listing.ts';
import { parseHubName } from './repo.ts';

export interface RemoteCheckpoint extends StoredCheckpoint {
  readonly remote: RemoteListing;
}

/**
 * Opens `org/name`, `org/name@revision`, or a GGUF file of it (`org/name/file.gguf`) without downloading it: config.json, headers and small tensors are fetched now, weights when they are read,
 * exactly the bytes asked for. Ranges cannot be checked against the digest of their file: sizes, the names of contents that the hub's headers give, and
 * the connection are what is trusted.
 * @throws ERR_NOT_FOUND, ERR_GATED_REPO, ERR_ACCESS_DENIED, ERR_NETWORK, ERR_INTEGRITY, and what `openCheckpoint` throws
 */
export async function openRemoteCheckpoint(
  name: string,
  options: OpenCheckpointOptions & { readonly client: HubClient },
): Promise<RemoteCheckpoint> {
  const { client, ...rest } = options;
  const { repo, file } = parseHubName(name);
  const remote = await listModel(client, repo, { signal: rest.signal });
  const folder = remoteFolder(client, remote);
  const { signal } = rest;
  const checkpoint = await openModelFolder(file === undefined ? folder : await ggufFolder(folder, file, { licences: true, signal }), rest);
  return { ...checkpoint, remote };
}
