// A model folder to a model that runs: hub's folders, models' adapters, and a runtime.

import type { CheckpointLayout, FormatCodec } from '@lowbit/core';
import { type LanguageModel, loadModel as loadFromCheckpoint, type LoadModelOptions as ModelOptions } from '@lowbit/models';
import { checkedOptions } from './checked-options.ts';
import { openModelFolder } from './open.ts';
import { type RunsOn, runtimeOf } from './running-on.ts';

/** `onNote` is also called with what was noticed while reading layers, such as a damaged table that was mended. */
export interface LoadModelOptions extends Omit<ModelOptions, 'runtime' | 'disposeRuntime'>, RunsOn {
  /** See `openCheckpoint` of hub. */
  readonly allowNonFinite?: boolean | undefined;
  /** Layouts of third parties, tried before the built-in ones, and codecs of formats of their own; a `runtime` has to have the latter, too. */
  readonly layouts?: readonly CheckpointLayout[] | undefined;
  readonly codecs?: readonly FormatCodec[] | undefined;
}

/**
 * Loads a model folder, quantized or not. Dispose the model to give its memory back.
 * It runs on the native CPU backend where its addon can be loaded and takes the formats, else on the reference backend; `onNote` is told why. `backends` or
 * `runtime` choose others, and `placement` of the model says who runs what.
 * @throws what `openModelFolder`, core's `createRuntime` and models' `loadModel` throw
 *
 * @example
 * await using model = await loadModel('./model-hqq4');
 * for await (const { text } of model.stream({ prompt: 'Once upon a time', seed: 1 })) process.stdout.write(text);
 */
export async function loadModel(path: string, options: LoadModelOptions = {}): Promise<LanguageModel> {
  const { runtime: given, backends, onNote, allowNonFinite, layouts, codecs, ...rest } = checkedOptions('loadModel', options);
  const { signal, onProgress } = options;
  const checkpoint = await openModelFolder(path, { signal, onProgress, allowNonFinite, layouts, codecs });
  try {
    for (const note of checkpoint.notes) onNote?.(note);
    const own = await runtimeOf({ runtime: given, backends, onNote }, codecs);
    try {
      return await loadFromCheckpoint(checkpoint, { ...rest, runtime: own.runtime, disposeRuntime: given === undefined });
    } catch (error) {
      await own[Symbol.asyncDispose]();
      throw error;
    }
  } finally {
    // Everything that the model needs is in memory by now.
    await checkpoint[Symbol.asyncDispose]();
  }
}
