// What an error in each layer of a model folder costs, without data: from random tokens run through the model once, layer by layer.

import type { CallOptions, Importance } from '@lowbit/core';
import { checkpointImportance, randomTokens } from '@lowbit/models';
import { openModelFolder } from './open.ts';
import { type RunsOn, runtimeOf } from './running-on.ts';

/** Tokens run through the model: more change little. */
export const IMPORTANCE_TOKENS = 1024;
/** Tokens of one sample; a model may have been made for no more than a few hundred. */
const SAMPLE = 256;

export interface RandomImportanceOptions extends CallOptions, RunsOn {}

/**
 * Importance of every linear of a model folder, for `quantizeModel`. The same folder gives the same numbers on the same backend; others differ in last digits. One layer's weights are in memory at a time.
 * @throws what `openModelFolder`, core's `createRuntime` and models' `checkpointImportance` throw
 *
 * @example
 * const importance = await randomImportance('./model');
 * await quantizeModel('./model', { out: './model-hqq3', quantizer: hqq({ bits: 3, solver: 'least-squares' }), importance });
 */
export async function randomImportance(path: string, options: RandomImportanceOptions = {}): Promise<ReadonlyMap<string, Importance>> {
  const { signal, onProgress } = options;
  await using checkpoint = await openModelFolder(path, { signal, onProgress });
  await using own = await runtimeOf(options);
  const { vocab_size: vocab } = checkpoint.config;
  const tokens = randomTokens(typeof vocab === 'number' ? vocab : Number.NaN, IMPORTANCE_TOKENS);
  const ids = Array.from({ length: IMPORTANCE_TOKENS / SAMPLE }, (_, i) => tokens.subarray(i * SAMPLE, (i + 1) * SAMPLE));
  return await checkpointImportance(checkpoint, { runtime: own.runtime, ids, signal, onProgress });
}
