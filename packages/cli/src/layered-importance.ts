// Importance of kind `matrix` for a model folder, a layer at a time while it is quantized: what feedback takes.

import { elements, hostTensor, type Importance, LowbitError, type Matrix } from '@lowbit/core';
import type { LateImportance, StoredCheckpoint } from '@lowbit/hub';
import { layerImportance, weightImportance } from '@lowbit/models';
import { type FindImportanceOptions, type ImportanceReport, type ImportanceSource, nameOf, passOf, samplesOf } from './importance.ts';
import { runtimeOf } from './running-on.ts';

/** Tokens run through the model: a matrix has more numbers to tell from them than a diagonal. */
const MATRIX_TOKENS = 8192;

/** What `layeredImportance` gives; dispose it when the model is quantized. */
export interface LayeredImportance extends AsyncDisposable {
  readonly importance: LateImportance;
  /** `estimated` grows while the model is quantized. */
  readonly report: ImportanceReport;
}

/**
 * Second moments between all input channels of every linear, found as they are asked for. The samples are made first: with `self` the whole model is in memory meanwhile. A linear that no token
 * reaches has the estimate from weights, and no moments between channels.
 * @throws ERR_BAD_ARGUMENT for a source without samples, ERR_UNSUPPORTED_ARCH for a model that cannot be run on a text, and what `findImportance` throws
 */
export async function layeredImportance(
  checkpoint: StoredCheckpoint,
  source: ImportanceSource,
  options: FindImportanceOptions,
): Promise<LayeredImportance> {
  const from = nameOf(source);
  if (from === 'none' || from === 'weights') {
    throw new LowbitError('ERR_BAD_ARGUMENT', `feedback needs samples, and importance '${from}' has none`, {
      hint: "Pass importance: 'self', or { text }.",
      details: { option: 'importance' },
    });
  }
  const { adapters = [], signal, onProgress, tokens = MATRIX_TOKENS } = options;
  const own = await runtimeOf(options);
  try {
    const how = { ...options, tokens, runtime: own.runtime };
    const identity = `matrix ${await passOf(checkpoint, source, how)}`;
    const ids = await samplesOf(checkpoint, source, how);
    const layers = await layerImportance(checkpoint, { runtime: own.runtime, ids, kind: 'matrix', adapters, identity, signal, onProgress });
    const estimated: string[] = [];
    let estimates: Promise<ReadonlyMap<string, Importance>> | undefined;
    return {
      report: { from, tokens: ids.reduce((sum, { length }) => sum + length, 0), estimated, why: null },
      importance: {
        identity,
        begin: (paths) => layers.begin(paths),
        async of(path) {
          const found = await layers.of(path);
          if (found) return found;
          estimates ??= weightImportance(checkpoint, { adapters, signal });
          const estimate = (await estimates).get(path);
          if (estimate === undefined) return undefined;
          estimated.push(path);
          return alone(estimate);
        },
      },
      async [Symbol.asyncDispose]() {
        await layers[Symbol.asyncDispose]();
        await own[Symbol.asyncDispose]();
      },
    };
  } catch (error) {
    await own[Symbol.asyncDispose]();
    throw error;
  }
}

/** A diagonal as the matrix of channels that have nothing to do with one another. */
function alone({ moments, rows }: Importance): Importance {
  const own = elements({ dtype: 'f32', data: moments.data });
  const shape: Matrix = [own.length, own.length];
  const matrix = new Float32Array(own.length ** 2);
  for (const [i, moment] of own.entries()) matrix[i * (own.length + 1)] = moment;
  return { kind: 'matrix', moments: hostTensor('f32', shape, matrix), rows };
}
