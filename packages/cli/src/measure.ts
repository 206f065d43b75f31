// What quantizing did to a model: the next-token distributions of two folders compared over a text.

import { klDivergence, type LanguageModel } from '@lowbit/models';
import { checkedOptions } from './checked-options.ts';
import { type LoadModelOptions, loadModel } from './load-model.ts';
import { type RunsOn, runtimeOf } from './running-on.ts';
import { encodeText, type TextFile, usualWindows } from './texts.ts';

/** Of a model against the one that it was made of. */
export interface MeasuredLoss {
  /** Mean KL(original || quantized) per token, in nats. */
  readonly kl: number;
  readonly perplexity: { readonly before: number; readonly after: number };
  readonly tokens: number;
}

/** Compares the model in `path` with the one in `original` over a text. Both are in memory meanwhile. Throws what `loadModel` and `klDivergence` throw. */
export async function measureLoss(
  original: string,
  path: string,
  file: TextFile,
  options: RunsOn & Pick<LoadModelOptions, 'adapters' | 'signal' | 'onProgress'> = {},
): Promise<MeasuredLoss> {
  const { runtime: givenRuntime, backends, onNote, signal, onProgress, ...rest } = checkedOptions('measureLoss', options);
  await using own = await runtimeOf({ runtime: givenRuntime, backends, onNote });
  const { runtime } = own;
  await using reference: LanguageModel = await loadModel(original, { ...rest, runtime, signal, onProgress });
  await using model: LanguageModel = await loadModel(path, { ...rest, runtime, signal, onProgress });
  const given = 'ids' in file ? file.ids : encodeText(reference.tokenizer, file.text);
  const sums = { kl: 0, before: 0, after: 0, tokens: 0 };
  for (const ids of given.texts) {
    const part = await klDivergence(reference, model, ids, { ...usualWindows(given, reference), signal, onProgress });
    sums.kl += part.kl * part.tokens;
    sums.before += part.reference.nll * part.tokens;
    sums.after += part.model.nll * part.tokens;
    sums.tokens += part.tokens;
  }
  const { kl, before, after, tokens } = sums;
  return { kl: kl / tokens, perplexity: { before: Math.exp(before / tokens), after: Math.exp(after / tokens) }, tokens };
}
