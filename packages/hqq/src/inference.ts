// prepareForInference: all layers of a model onto one backend.

import { type CallOptions, LowbitError } from '@lowbit/core';
import type { HqqBackend } from './backends.ts';
import { HqqLinear } from './linear.ts';
import { checkNames } from './solver-options.ts';

export interface InferenceOptions extends CallOptions {
  /** Default `default`: each layer on the first backend that takes it. */
  readonly backend?: HqqBackend;
}

const OPTIONS: ReadonlySet<string> = new Set<keyof InferenceOptions>(['backend', 'signal', 'onProgress']);

/**
 * Moves the layers of a model, a map of module paths to layers, to what a backend name of hqq's stands for. All are checked before the first moves,
 * where Python skips those that do not fit; layers moved before an abort stay moved. Layers can be saved and moved again afterwards.
 *
 * @throws as `HqqLinear.setBackend`, naming the layer
 */
export async function prepareForInference(
  model: Iterable<readonly [path: string, layer: HqqLinear]>,
  options: InferenceOptions = {},
): Promise<void> {
  checkNames(options, OPTIONS, 'prepareForInference', '');
  const { backend = 'default', signal, onProgress } = options;
  const layers = [...model];
  for (const [path, layer] of layers) {
    if (layer instanceof HqqLinear) layer.checkBackend(backend, path);
    else
      throw new LowbitError('ERR_BAD_ARGUMENT', `prepareForInference: ${path} is no HqqLinear`, {
        hint: 'Pass [path, HqqLinear] pairs, such as a Map.',
      });
  }
  for (const [i, [path, layer]] of layers.entries()) {
    signal?.throwIfAborted();
    await layer.setBackend(backend, { signal });
    onProgress?.({ phase: 'load', done: i + 1, total: layers.length, unit: 'linears', item: path });
  }
}
