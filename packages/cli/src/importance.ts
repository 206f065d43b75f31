// What an error in each layer of a model folder costs, without data: from random tokens run through the model once, layer by layer.

import { type BackendProvider, type CallOptions, createRuntime, type Importance, referenceBackend } from '@lowbit/core';
import { checkpointImportance, randomTokens } from '@lowbit/models';
import { openModelFolder } from './open.ts';

/** Tokens run through the model: more change little. */
export const IMPORTANCE_TOKENS = 1024;
/** Tokens of one sample; a model may have been made for no more than a few hundred. */
const SAMPLE = 256;

export interface RandomImportanceOptions extends CallOptions {
  /** Backends in order of preference; default the reference backend. */
  readonly backends?: readonly BackendProvider[];
}

/**
 * Importance of every linear of a model folder, for `quantizeModel`. The same folder gives the same numbers. One layer's weights are in memory at a time.
 * @throws what `openModelFolder`, core's `createRuntime` and models' `checkpointImportance` throw
 *
 * @example
 * const importance = await randomImportance('./model');
 * await quantizeModel('./model', { out: './model-hqq3', quantizer: hqq({ bits: 3, solver: 'least-squares' }), importance });
 */
export async function randomImportance(path: string, options: RandomImportanceOptions = {}): Promise<ReadonlyMap<string, Importance>> {
  const { backends = [referenceBackend()], signal, onProgress } = options;
  await using checkpoint = await openModelFolder(path, { signal });
  await using runtime = await createRuntime({ backends });
  const { vocab_size: vocab } = checkpoint.config;
  const tokens = randomTokens(typeof vocab === 'number' ? vocab : Number.NaN, IMPORTANCE_TOKENS);
  const ids = Array.from({ length: IMPORTANCE_TOKENS / SAMPLE }, (_, i) => tokens.subarray(i * SAMPLE, (i + 1) * SAMPLE));
  return await checkpointImportance(checkpoint, { runtime, ids, signal, onProgress });
}
