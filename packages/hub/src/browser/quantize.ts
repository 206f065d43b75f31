// Checkpoints in a browser: opened from any folder, quantized into a store.

import { checkOptionNames } from '@lowbit/core';
import { type OpenCheckpointOptions, openModelFolder, type StoredCheckpoint } from '../checkpoint.ts';
import type { ModelFolder } from '../folder.ts';
import { checkSource, type PlanQuantizationOptions, prepareQuantization, QUANTIZE_OPTIONS } from '../plan-quantization.ts';
import { type QuantizationReport, type WriteModelOptions, writeModel } from '../write-model.ts';
import type { BrowserStore } from './store.ts';
import { createStoreSink } from './store-output.ts';

/**
 * Opens the model of a folder, which is the checkpoint's from now on: disposing the checkpoint gives it back. Reads config.json and headers, never weights.
 * Throws ERR_NOT_FOUND (no config.json, no weights, a missing shard), ERR_BAD_CHECKPOINT, ERR_BAD_SAFETENSORS, ERR_BAD_PICKLE, ERR_TENSOR_MISMATCH (a
 * quantized layer that does not fit together), ERR_UNSUPPORTED_FORMAT for a quantization that nothing here reads, and ERR_IO.
 *
 * @example
 * const store = await openBrowserStore();
 * const checkpoint = await openCheckpoint(await store.folder('my-model'));
 */
export async function openCheckpoint(folder: ModelFolder, options: OpenCheckpointOptions = {}): Promise<StoredCheckpoint> {
  const giveBack = async () => {
    await folder[Symbol.asyncDispose]?.();
  };
  try {
    const checkpoint = await openModelFolder(folder, options);
    return {
      ...checkpoint,
      async [Symbol.asyncDispose]() {
        try {
          await checkpoint[Symbol.asyncDispose]();
        } finally {
          await giveBack();
        }
      },
    };
  } catch (error) {
    await giveBack();
    throw error;
  }
}

export interface QuantizeCheckpointOptions extends PlanQuantizationOptions, WriteModelOptions {
  readonly store: BrowserStore;
  /** Name of the result in the store. It appears when it is complete. */
  readonly out: string;
}

/**
 * Quantizes a checkpoint into a store, in bounded memory. An abort or an error leaves nothing behind (with `resume`: what is needed to go on).
 * @throws what `planQuantization` throws, ERR_OUTPUT_EXISTS, ERR_JOURNAL_MISMATCH, ERR_IO (less room than the result needs, and others), ERR_NON_FINITE,
 * ERR_DTYPE_OVERFLOW; abort throws the signal's reason
 */
export async function quantizeCheckpoint(
  source: StoredCheckpoint,
  { store, ...options }: QuantizeCheckpointOptions,
): Promise<QuantizationReport> {
  checkSource('quantizeCheckpoint', source);
  checkOptionNames('quantizeCheckpoint', options, QUANTIZE_OPTIONS);
  options.signal?.throwIfAborted();
  const { files, state } = source.source;
  return writeModel(source, await prepareQuantization(source, options), options, {
    sourceFiles: async () => state ?? files.map(({ path, size }) => [path, size]),
    open: (sink) => createStoreSink(store, options.out, sink),
  });
}
