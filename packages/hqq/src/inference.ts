// prepareForInference: all layers of a model onto one backend.

import { type CallOptions, checkOptionNames, LowbitError } from '@lowbit/core';
import { checkBackendName, type HqqBackend } from './backends.ts';
import { HqqLinear } from './linear.ts';

export interface InferenceOptions extends CallOptions {
  /** Default `default`: each layer on the first backend that takes it. */
  readonly backend?: HqqBackend;
}

const OPTIONS: ReadonlySet<string> = new Set<keyof InferenceOptions>(['backend', 'signal', 'onProgress']);

/**
 * Moves the layers of a model, a map of module paths to layers, to what a backend name of hqq's stands for. All are checked before the first moves,
 * where Python skips those that do not fit; layers moved before an abort stay moved. Layers can be saved and moved again afterwards.
 *
 * @throws ERR_BAD_ARGUMENT (no such pairs, no such backend), and as `HqqLinear.setBackend`, naming the layer
 */
export async function prepareForInference(
  model: Iterable<readonly [path: string, layer: HqqLinear]>,
  options: InferenceOptions = {},
): Promise<void> {
  checkOptionNames('prepareForInference', options, OPTIONS);
  const { backend = 'default', signal, onProgress } = options;
  checkBackendName(backend);
  const layers = checkedPairs(model);
  for (const [path, layer] of layers) layer.checkBackend(backend, path);
  for (const [i, [path, layer]] of layers.entries()) {
    signal?.throwIfAborted();
    await layer.setBackend(backend, { signal });
    onProgress?.({ phase: 'load', done: i + 1, total: layers.length, unit: 'linears', item: path });
  }
}

/** The pairs, each a path and an HqqLinear. Throws ERR_BAD_ARGUMENT. */
function checkedPairs(model: Iterable<readonly [path: string, layer: HqqLinear]>): readonly (readonly [string, HqqLinear])[] {
  const refused = (problem: string) =>
    new LowbitError('ERR_BAD_ARGUMENT', `prepareForInference: ${problem}`, {
      hint: 'Pass [path, HqqLinear] pairs: a Map, or Object.entries of a record.',
    });
  if (typeof model !== 'object' || model === null || !(Symbol.iterator in model)) throw refused('the model is no list of layers');
  const pairs = [...model];
  for (const pair of pairs) {
    if (!Array.isArray(pair) || typeof pair[0] !== 'string') throw refused('an entry is no pair of path and layer');
    if (!(pair[1] instanceof HqqLinear)) throw refused(`${pair[0]} is no HqqLinear`);
  }
  return pairs;
}
