// A model folder to a model that runs: hub's folders, models' adapters, and a runtime.

import { type BackendProvider, createRuntime, type Runtime, referenceBackend } from '@lowbit/core';
import { type LanguageModel, loadModel as loadFromCheckpoint, type LoadModelOptions as ModelOptions } from '@lowbit/models';
import { openModelFolder } from './open.ts';

export interface LoadModelOptions extends Omit<ModelOptions, 'runtime' | 'disposeRuntime'> {
  /** Where the model runs; stays the caller's to dispose. Default: a runtime of its own over `backends`, disposed with the model. */
  readonly runtime?: Runtime;
  /** Backends in order of preference, where no `runtime` is given. Default: the reference backend, which runs everything, slowly. */
  readonly backends?: readonly BackendProvider[];
  /** Called with what was noticed while reading layers, such as a damaged table that was mended. */
  readonly onNote?: ((note: string) => void) | undefined;
}

/**
 * Loads a model folder, quantized or not. Dispose the model to give its memory back.
 * @throws what `openModelFolder`, core's `createRuntime` and models' `loadModel` throw
 *
 * @example
 * await using model = await loadModel('./model-hqq4');
 * for await (const { text } of model.stream({ prompt: 'Once upon a time', seed: 1 })) process.stdout.write(text);
 */
export async function loadModel(path: string, options: LoadModelOptions = {}): Promise<LanguageModel> {
  const { runtime, backends = [referenceBackend()], onNote, ...rest } = options;
  const checkpoint = await openModelFolder(path, { signal: options.signal });
  try {
    for (const note of checkpoint.notes) onNote?.(note);
    if (runtime) return await loadFromCheckpoint(checkpoint, { ...rest, runtime });
    const own = await createRuntime({ backends });
    try {
      return await loadFromCheckpoint(checkpoint, { ...rest, runtime: own, disposeRuntime: true });
    } catch (error) {
      await own[Symbol.asyncDispose]();
      throw error;
    }
  } finally {
    // Everything that the model needs is in memory by now.
    await checkpoint[Symbol.asyncDispose]();
  }
}
