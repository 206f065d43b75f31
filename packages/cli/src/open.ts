// Opening what a person named: a folder, with remedies for what is easily mistaken for one.

import { stat } from 'node:fs/promises';
import { isLowbitError, LowbitError } from '@lowbit/core';
import { type FolderCheckpoint, type OpenCheckpointOptions, openCheckpoint } from '@lowbit/hub';

/** `org/name` as on the Hugging Face Hub. */
const MODEL_ID = /^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/;

/** Hub's; other options of those who hand theirs on are theirs to check. */
export type OpenOptions = { readonly [K in keyof OpenCheckpointOptions]?: OpenCheckpointOptions[K] | undefined };

/**
 * Opens a model folder. Throws what `openCheckpoint` throws, and ERR_NOT_FOUND with a way out for a model id of the Hub, since fetching is not
 * supported yet.
 */
export async function openModelFolder(path: string, options: OpenOptions = {}): Promise<FolderCheckpoint> {
  if (typeof path !== 'string' || path === '') {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'this needs the path of a model folder', {
      hint: "Pass a text such as './model'.",
      details: { path },
    });
  }
  try {
    const { signal, layouts, codecs, allowNonFinite } = options;
    return await openCheckpoint(path, { signal, allowNonFinite, ...(layouts ? { layouts } : {}), ...(codecs ? { codecs } : {}) });
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
