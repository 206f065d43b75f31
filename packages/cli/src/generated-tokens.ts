// What a model says when nothing is asked: tokens of its own, for measurements that need a text where there is none.

import type { CallOptions, Checkpoint, JsonObject, ModelAdapter, Runtime } from '@lowbit/core';
import { loadModel, randomTokens, vocabularyOf } from '@lowbit/models';

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
  const { bos_token_id: bos } = textConfig(checkpoint.config);
  const starts = randomTokens(await vocabularyOf(checkpoint, { adapters, signal }), Math.ceil(tokens / size), seed);
  await using model = await loadModel(checkpoint, { runtime, adapters, signal, onProgress });
  const samples = [...starts].map((start) => [typeof bos === 'number' ? bos : start]);
  const requests = samples.map(([first], i) => {
    const maxTokens = Math.min(size, tokens - i * size, model.contextLength) - 1;
    return { ids: [first!], maxTokens, temperature: 1, topK: 0, topP: 1, seed: seed + i, ignoreEos: true };
  });
  let done = samples.length;
  const take = (sample: number, id: number): void => {
    samples[sample]!.push(id);
    onProgress?.({ phase: 'generate', done: ++done, total: tokens, unit: 'tokens' });
  };
  const longer = requests.flatMap((request, i) => (request.maxTokens > 0 ? [{ request, i }] : []));
  const batch = longer.map(({ request }) => request);
  for await (const { index, id } of model.streamBatch(batch, { signal })) take(longer[index]!.i, id);
  return samples;
}

/** Of models that look at images, too, the part that says what the language model is. */
function textConfig(config: JsonObject): JsonObject {
  const { bos_token_id: own, text_config: text } = config;
  return own === undefined && typeof text === 'object' && text !== null && !Array.isArray(text) ? (text as JsonObject) : config;
}
