// Importance for a model folder that is quantized with feedback, a layer at a time meanwhile: matrices where feedback goes to.

import { adapterFor, elements, hostTensor, type Importance, type LinearSite, LowbitError, type Matrix } from '@lowbit/core';
import type { LateImportance, StoredCheckpoint } from '@lowbit/hub';
import { defaultAdapters, type ImportanceMemory, importanceMemory, layerImportance, weightImportance } from '@lowbit/models';
import { type FindImportanceOptions, type ImportanceReport, type ImportanceSource, nameOf, passOf, samplesOf } from './importance.ts';
import { machineMemory } from './machine-memory.ts';
import { runtimeOf } from './running-on.ts';
import type { WeighedLinears } from './weighed-linears.ts';

/** Tokens run through the model: a matrix has more numbers to tell from them than a diagonal. */
const MATRIX_TOKENS = 8192;

/** What `layeredImportance` gives; dispose it when the model is quantized. */
export interface LayeredImportance extends AsyncDisposable {
  readonly importance: LateImportance;
  /** `estimated` grows while the model is quantized. */
  readonly report: ImportanceReport;
}

export interface LayeredImportanceOptions extends FindImportanceOptions {
  /** The linears that importance is for: matrices where feedback goes to, else single channels. */
  readonly linears: WeighedLinears;
  /** Bytes that moments may take; default all of this machine's. */
  readonly memory?: number;
}

/**
 * Second moments of linears, for feedback those between all input channels, found as they are asked for. The samples are made first: with `self` the whole model is in memory meanwhile. A linear that no token
 * reaches has the estimate from weights, and no moments between channels; one that no text runs through has none, and every channel counts alike.
 * @throws ERR_BAD_ARGUMENT for a source without samples, ERR_LIMIT for moments that this machine has no memory for, ERR_UNSUPPORTED_ARCH for a model that cannot be run on a text, all before
 * anything is run, and what `findImportance` throws
 */
export async function layeredImportance(
  checkpoint: StoredCheckpoint,
  source: ImportanceSource,
  options: LayeredImportanceOptions,
): Promise<LayeredImportance> {
  const from = nameOf(source);
  if (from === 'none' || from === 'weights') {
    throw new LowbitError('ERR_BAD_ARGUMENT', `feedback needs samples, and importance '${from}' has none`, {
      hint: "Pass importance: 'self', or { text }.",
      details: { option: 'importance' },
    });
  }
  const { adapters = [], signal, onProgress, linears, memory = machineMemory(), tokens = MATRIX_TOKENS } = options;
  const kind = (path: string): Importance['kind'] => linears.get(path) ?? 'diagonal';
  const need = await importanceMemory(checkpoint, { tokens, paths: linears.keys(), kind, adapters, signal });
  if (need.bytes > memory) throw tooLarge(need, memory);
  const adapter = adapterFor(checkpoint.config, [...adapters, ...defaultAdapters]);
  const sites = new Map(adapter.linears(checkpoint.config, checkpoint.source.entries).map((site) => [site.path, site]));
  const read = new Set(need.linears);
  const fed = [...linears.keys()].filter((path) => kind(path) === 'matrix');
  const unread = fed.filter((path) => !read.has(path));
  const own = await runtimeOf(options);
  try {
    const how = { ...options, tokens, runtime: own.runtime };
    const identity = `matrix ${await passOf(checkpoint, source, how)}`;
    const isRun = [...linears.keys()].some((path) => read.has(path));
    const ids = isRun ? await samplesOf(checkpoint, source, how) : [];
    const found = { runtime: own.runtime, ids, kind, adapters, identity, momentMemory: memory, signal, onProgress } as const;
    const layers = isRun ? await layerImportance(checkpoint, found) : undefined;
    const estimated: string[] = [];
    let estimates: Promise<ReadonlyMap<string, Importance>> | undefined;
    return {
      report: {
        from: layers ? from : 'none',
        tokens: ids.reduce((sum, { length }) => sum + length, 0),
        estimated,
        why: null,
        ...(unread.length > 0 ? { unread } : {}),
      },
      importance: {
        identity,
        begin: (asked) => layers?.begin(asked),
        async of(path, asking) {
          if (!layers || !read.has(path)) return kind(path) === 'matrix' ? nothingOf(sites.get(path)!) : undefined;
          const found = await layers.of(path, asking);
          if (found) return found;
          estimates ??= weightImportance(checkpoint, { adapters, signal });
          const estimate = (await estimates).get(path);
          if (estimate === undefined) return undefined;
          estimated.push(path);
          return kind(path) === 'matrix' ? alone(estimate) : estimate;
        },
      },
      async [Symbol.asyncDispose]() {
        await layers?.[Symbol.asyncDispose]();
        await own[Symbol.asyncDispose]();
      },
    };
  } catch (error) {
    await own[Symbol.asyncDispose]();
    throw error;
  }
}

function tooLarge({ bytes, layer }: ImportanceMemory, memory: number): LowbitError {
  return new LowbitError(
    'ERR_LIMIT',
    `feedback takes ${bytes} bytes for the second moments of layer ${layer}, more than the ${memory} of this machine`,
    {
      hint: 'Leave the linears with the most inputs to a rule without feedback, such as mlp.down_proj=hqq:b4:hqq, or do without it.',
      details: { bytes, layer, memory },
    },
  );
}

/** A matrix of which nothing is known: of zeros, for which a quantizer does what it does without importance. */
function nothingOf({ shape: [, inputs] }: LinearSite): Importance {
  return { kind: 'matrix', moments: hostTensor('f32', [inputs, inputs], new Float32Array(inputs ** 2)), rows: 0 };
}

/** A diagonal as the matrix of channels that have nothing to do with one another. */
function alone({ moments, rows }: Importance): Importance {
  const own = elements({ dtype: 'f32', data: moments.data });
  const shape: Matrix = [own.length, own.length];
  const matrix = new Float32Array(own.length ** 2);
  for (const [i, moment] of own.entries()) matrix[i * (own.length + 1)] = moment;
  return { kind: 'matrix', moments: hostTensor('f32', shape, matrix), rows };
}
