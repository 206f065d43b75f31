// What a loaded model took, beside what was said of it before: the backend's count, and the resident memory of the process as the system counts it.

import { type CallOptions, type Checkpoint, LowbitError, type Runtime } from '@lowbit/core';
import { type LoadModelOptions, loadModel } from '@lowbit/models';

/** Bytes, after a text as long as the context was read. */
export interface MeasuredMemory {
  readonly tokens: number;
  /** What the backend counted then: weights, keys and values, norms, and the room that its last step left. */
  readonly counted: number;
  /** Resident memory of the process: before the model was loaded, when it was, and at most. */
  readonly rss: { readonly before: number; readonly loaded: number; readonly most: number };
}

export interface MeasureMemoryOptions extends CallOptions, Pick<LoadModelOptions, 'head'> {
  readonly runtime: Runtime;
  readonly contextLength: number;
}

/** Between two looks at the process. */
const EVERY_MS = 5;

/**
 * Loads the model and reads a text of `contextLength` tokens. Pages of mapped files count as resident, and so does what JavaScript has not collected yet.
 * @throws what models' `loadModel` and `generate` throw, ERR_BAD_ARGUMENT for a context of one token
 */
export async function measureMemory(checkpoint: Checkpoint, options: MeasureMemoryOptions): Promise<MeasuredMemory> {
  const { runtime, contextLength, head, signal, onProgress } = options;
  const tokens = contextLength - 1; // the one that follows has its place, too
  if (tokens < 1)
    throw new LowbitError('ERR_BAD_ARGUMENT', 'a context of one token leaves nothing to measure', { hint: 'Take a longer one.' });
  const before = process.memoryUsage.rss();
  let most = before;
  const look = (): number => {
    const now = process.memoryUsage.rss();
    most = Math.max(most, now);
    return now;
  };
  const timer = setInterval(look, EVERY_MS);
  try {
    const shared = { runtime, signal, onProgress };
    await using model = await loadModel(checkpoint, { ...shared, contextLength, ...(head ? { head } : {}) });
    const loaded = look();
    const { vocab } = model;
    const ids = Uint32Array.from({ length: tokens }, (_, i) => (i * 7919) % vocab);
    let counted = 0;
    for await (const _ of model.stream({ ids, maxTokens: 1, temperature: 0, ignoreEos: true, signal, onProgress })) {
      look();
      counted = (await runtime.backend(model.placement[0]?.backend)).allocated();
    }
    return { tokens, counted, rss: { before, loaded, most } };
  } finally {
    clearInterval(timer);
  }
}
