// Opening what a person named: a folder, with remedies for what is easily mistaken for one.

import { stat } from 'node:fs/promises';
import { isLowbitError, LowbitError } from '@lowbit/core';
import { type FolderCheckpoint, openCheckpoint } from '@lowbit/hub';

/** `org/name` as on the Hugging Face Hub. */
const MODEL_ID = /^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/;

export interface OpenOptions {
  readonly signal?: AbortSignal | undefined;
}

/**
 * Opens a model folder. Throws what `openCheckpoint` throws, and ERR_NOT_FOUND with a way out for a model id of the Hub, since fetching is not
 * supported yet.
 */
export async function openModelFolder(path: string, options: OpenOptions = {}): Promise<FolderCheckpoint> {
  try {
    return await openCheckpoint(path, options);
  } catch (error) {
    if (isLowbitError(error, 'ERR_NOT_FOUND') && MODEL_ID.test(path) && !(await exists(path))) throw modelId(path);
    throw error;
  }
}

function modelId(id: string): LowbitError {
  const name = id.slice(id.indexOf('/') + 1);
  return new LowbitError('ERR_NOT_FOUND', `there is no folder ${id}, and fetching a model by its id is not supported yet`, {
    hint: `If it is a model on the Hugging Face Hub, download it first (\`hf download ${id} --local-dir ${name}\`), then pass the folder ${name}.`,
    details: { path: id },
  });
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
