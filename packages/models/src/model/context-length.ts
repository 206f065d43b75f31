// What a checkpoint's model takes, from config.json and small tensors alone: how long texts may be, and of which tokens.

import { adapterFor, type Checkpoint, LowbitError, type ModelAdapter, type ModelDescription } from '@lowbit/core';
import { defaultAdapters } from '../adapters/index.ts';
import { checkCheckpoint } from '../arguments.ts';
import { logicalModel, readLogical } from './stored.ts';

interface DescribedOptions {
  readonly adapters?: readonly ModelAdapter[];
  readonly signal?: AbortSignal | undefined;
}

async function described(checkpoint: Checkpoint, { adapters = [], signal }: DescribedOptions): Promise<ModelDescription> {
  const adapter = adapterFor(checkpoint.config, [...adapters, ...defaultAdapters]);
  const { entries } = logicalModel(checkpoint, adapter);
  return adapter.describe(checkpoint.config, { entries, read: (name) => readLogical(checkpoint, name, signal) });
}

/** Most tokens that a model was made for, from config.json and small tensors. Throws as `loadModel` does for a checkpoint that it would not load. */
export async function contextLengthOf(
  checkpoint: Checkpoint,
  options: { readonly adapters?: readonly ModelAdapter[]; readonly signal?: AbortSignal | undefined } = {},
): Promise<number> {
  checkCheckpoint('contextLengthOf', checkpoint);
  return (await described(checkpoint, options)).contextLength;
}

/**
 * How many token ids a model reads, from 0 on; of one that looks at images, too, those of its language model. Throws ERR_UNSUPPORTED_ARCH for an image tower on
 * its own, which reads no text, and as `contextLengthOf` does.
 */
export async function vocabularyOf(
  checkpoint: Checkpoint,
  options: { readonly adapters?: readonly ModelAdapter[]; readonly signal?: AbortSignal | undefined } = {},
): Promise<number> {
  checkCheckpoint('vocabularyOf', checkpoint);
  const { vocab, images } = await described(checkpoint, options);
  if (!images || images.placeholder !== undefined) return vocab;
  throw new LowbitError('ERR_UNSUPPORTED_ARCH', `${checkpoint.label} is an image tower and reads no text`, {
    details: { modelType: checkpoint.config.model_type },
  });
}
