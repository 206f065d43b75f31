// Opening what a person named: a folder, a file of weights, or a model on the Hugging Face Hub. What is there on disk goes first.

import { stat } from 'node:fs/promises';
import { type CallOptions, LowbitError } from '@lowbit/core';
import {
  downloadModel,
  type FolderCheckpoint,
  type OpenCheckpointOptions,
  openCheckpoint,
  openHubCheckpoint,
  type RemoteCheckpoint,
  readHubName,
} from '@lowbit/hub';
import { withHint } from './errors.ts';

/** Hub's; other options of those who hand theirs on are theirs to check. */
export type OpenOptions = { readonly [K in keyof OpenCheckpointOptions]?: OpenCheckpointOptions[K] | undefined } & CallOptions;

/**
 * Opens a model on this machine: a folder, a file, or `org/name`, `org/name@revision` or `org/name/file.gguf` of the Hub, which is downloaded into the cache first. Throws what
 * `openCheckpoint` and hub's `downloadModel` throw.
 */
export async function openModelFolder(path: string, options: OpenOptions = {}): Promise<FolderCheckpoint> {
  if (!(await isRemote(path))) return openCheckpoint(path, opening(options));
  const { signal, onProgress } = options;
  const { folder, file = folder } = await onTheHub(() => downloadModel(path, { signal, onProgress }));
  return openCheckpoint(file, opening(options));
}

/**
 * Opens a model to look at it or to quantize it: one of the Hub is not downloaded for that, unless it is in the cache already. Throws what `openCheckpoint`
 * and hub's `openHubCheckpoint` throw.
 */
export async function openModel(path: string, options: OpenOptions = {}): Promise<FolderCheckpoint | RemoteCheckpoint> {
  return (await isRemote(path)) ? onTheHub(() => openHubCheckpoint(path, opening(options))) : openCheckpoint(path, opening(options));
}

function opening({ signal, layouts, codecs, allowNonFinite }: OpenOptions): OpenCheckpointOptions {
  return { signal, allowNonFinite, ...(layouts ? { layouts } : {}), ...(codecs ? { codecs } : {}) };
}

/** Where a model is, for people. */
export function placeOf(checkpoint: FolderCheckpoint | RemoteCheckpoint): string {
  if ('folder' in checkpoint) return checkpoint.label;
  const { remote, label } = checkpoint;
  const model = `${remote.name}@${remote.commit}`;
  const file = label.slice(label.indexOf(`/${remote.name}/`) + remote.name.length + 2);
  return label.endsWith('.gguf') ? `${model}/${file}` : model;
}

/** Whether a name means a model on the Hub: it is one of those, and there is nothing of that name here. Throws ERR_BAD_ARGUMENT for what is no name. */
async function isRemote(path: string): Promise<boolean> {
  if (typeof path !== 'string' || path === '') {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'this needs the path of a model folder, or its name on the Hub', {
      hint: "Pass a text such as './model' or 'org/name'.",
      details: { path },
    });
  }
  if (readHubName(path) === undefined) return false;
  // What is there and cannot be looked at is for those who open it to refuse.
  return stat(path).then(
    () => false,
    ({ code }: NodeJS.ErrnoException) => code === 'ENOENT' || code === 'ENOTDIR',
  );
}

/** Codes of what a misspelt path comes to on the Hub, which says "access denied" of names that it does not have. */
const NOT_THERE: readonly string[] = ['ERR_NOT_FOUND', 'ERR_ACCESS_DENIED', 'ERR_NETWORK', 'ERR_OFFLINE_MISS'];

function onTheHub<T>(open: () => Promise<T>): Promise<T> {
  return withHint(open, (hint, { code }) =>
    NOT_THERE.includes(code) ? `${hint} Nothing here has that name, so it was taken for one of the Hub.`.trimStart() : hint,
  );
}
