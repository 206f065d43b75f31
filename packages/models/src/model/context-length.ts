import { adapterFor, type Checkpoint, type ModelAdapter } from '@lowbit/core';
import { defaultAdapters } from '../adapters/index.ts';
import { checkCheckpoint } from '../arguments.ts';
import { logicalModel, readLogical } from './stored.ts';

/** Most tokens that a model was made for, from config.json and small tensors. Throws as `loadModel` does for a checkpoint that it would not load. */
export async function contextLengthOf(
  checkpoint: Checkpoint,
  options: { readonly adapters?: readonly ModelAdapter[]; readonly signal?: AbortSignal | undefined } = {},
): Promise<number> {
  checkCheckpoint('contextLengthOf', checkpoint);
  const { adapters = [], signal } = options;
  const adapter = adapterFor(checkpoint.config, [...adapters, ...defaultAdapters]);
  const { entries } = logicalModel(checkpoint, adapter);
  const { contextLength } = await adapter.describe(checkpoint.config, { entries, read: (name) => readLogical(checkpoint, name, signal) });
  return contextLength;
}
