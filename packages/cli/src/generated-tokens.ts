// What a model says when nothing is asked: tokens of its own, for measurements that need a text where there is none.

import type { CallOptions, Checkpoint, ModelAdapter, Runtime } from '@lowbit/core';
import { loadModel, randomTokens } from '@lowbit/models';

export interface GeneratedTokensOptions extends CallOptions {
  readonly runtime: Runtime;
  /** How many, in samples of `sample` tokens. */
  readonly tokens: number;
  readonly sample: number;
  readonly seed?: number | undefined;
  readonly adapters?: readonly ModelAdapter[] | undefined;
}

/**
 * Samples at temperature 1, each from the start token, or from a random one where config.json names none. The whole model is in memory meanwhile.
 * @throws what `loadModel` and `stream` of models throw
 */
export async function generatedTokens(
  checkpoint: Checkpoint,
  { runtime, tokens, sample: size, seed = 1, adapters = [], signal, onProgress }: GeneratedTokensOptions,
): Promise<readonly (readonly number[])[]> {
  const { vocab_size: vocab, bos_token_id: bos } = checkpoint.config;
  const starts = randomTokens(typeof vocab === 'number' ? vocab : Number.NaN, Math.ceil(tokens / size), seed);
  await using model = await loadModel(checkpoint, { runtime, adapters, signal, onProgress });
  const samples: number[][] = [];
  for (const [i, start] of starts.entries()) {
    const first = typeof bos === 'number' ? bos : start;
    const sampling = { temperature: 1, topK: 0, topP: 1, seed: seed + i, ignoreEos: true };
    const maxTokens = Math.min(size, tokens - i * size, model.contextLength) - 1;
    const sample = [first];
    if (maxTokens > 0) {
      for await (const { id } of model.stream({ ids: [first], maxTokens, ...sampling, signal })) {
        sample.push(id);
        onProgress?.({ phase: 'generate', done: i * size + sample.length, total: tokens, unit: 'tokens' });
      }
    }
    samples.push(sample);
  }
  return samples;
}
