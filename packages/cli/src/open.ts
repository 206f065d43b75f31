// Opening what a person named: a folder, a file of weights, or a model on the Hugging Face Hub. What is there on disk goes first.

import { stat } from 'node:fs/promises';
import type { CallOptions } from '@lowbit/core';
import { downloadModel, type FolderCheckpoint, openCheckpoint, openHubCheckpoint, type RemoteCheckpoint, readRepoName } from '@lowbit/hub';

export interface OpenOptions extends CallOptions {}

/**
 * Opens a model on this machine: a folder, or `org/name` or `org/name@revision` of the Hub, which is downloaded into the cache first. Throws what
 * `openCheckpoint` and hub's `downloadModel` throw.
 */
export async function openModelFolder(path: string, options: OpenOptions = {}): Promise<FolderCheckpoint> {
  const { signal } = options;
  return openCheckpoint((await isRemote(path)) ? (await downloadModel(path, options)).folder : path, { signal });
}

/**
 * Opens a model to look at it or to quantize it: one of the Hub is not downloaded for that, unless it is in the cache already. Throws what `openCheckpoint`
 * and hub's `openHubCheckpoint` throw.
 */
export async function openModel(path: string, { signal }: OpenOptions = {}): Promise<FolderCheckpoint | RemoteCheckpoint> {
  return (await isRemote(path)) ? openHubCheckpoint(path, { signal }) : openCheckpoint(path, { signal });
}

/** Where a model is, for people. */
export function placeOf(checkpoint: FolderCheckpoint | RemoteCheckpoint): string {
  if ('folder' in checkpoint) return checkpoint.folder;
  return `${checkpoint.remote.name}@${checkpoint.remote.commit}`;
}

/** Whether a name means a model on the Hub: it is one of those, and there is nothing of that name here. */
async function isRemote(path: string): Promise<boolean> {
  if (readRepoName(path) === undefined) return false;
  return stat(path).then(
    () => false,
    () => true,
  );
}
