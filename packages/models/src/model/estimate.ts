// What a model will take, known from its headers: nothing is loaded.

import {
  adapterFor,
  type Checkpoint,
  checkOptionNames,
  type Format,
  LowbitError,
  type ModelAdapter,
  type Program,
  type Quantizer,
  type Runtime,
} from '@lowbit/core';
import { defaultAdapters } from '../adapters/index.ts';
import { checkCheckpoint, checkLoadingRuntime } from '../arguments.ts';
import { boundedContext, DEFAULT_CHUNK, towerPositions } from './load-model.ts';
import { checkHead, headFormat, outputLinear } from './output-layer.ts';
import { programBytes } from './program-bytes.ts';
import { logicalModel, readLogical, storedFormats } from './stored.ts';

/** Of `estimateMemory`. */
export interface EstimateOptions {
  /** Its first backend that runs the model counts. Nothing is put there. */
  readonly runtime: Runtime;
  readonly adapters?: readonly ModelAdapter[];
  /** Tokens of a sequence; default what the model was made for, at most 4096. */
  readonly contextLength?: number;
  /** Sequences at once; default 1. */
  readonly sequences?: number;
  /** Most tokens of a step; default as in `loadModel`. */
  readonly prefillChunk?: number;
  /** As in `loadModel`. */
  readonly dtype?: 'f32' | 'f16' | 'bf16';
  /** As in `loadModel`. */
  readonly head?: Quantizer;
  /** The format that a linear would have, by path, such as after quantizing; undefined: as stored. */
  readonly formatOf?: (path: string) => Format | undefined;
  /** Bytes that the model may take; default the memory of the backend's device. */
  readonly available?: number;
  readonly signal?: AbortSignal | undefined;
}

/** fits: at most 80 % of what is available. tight: at most all of it. */
export type Verdict = 'fits' | 'tight' | 'no';

/** Bytes on the device. */
export interface MemoryEstimate {
  readonly backend: string;
  readonly device: string;
  readonly contextLength: number;
  readonly sequences: number;
  /** What `model.memory().weights` will say. */
  readonly weights: number;
  /** Of full sequences: what `model.memory().kvCache` will say then, give or take a block of positions that a backend fills up. */
  readonly kvCache: number;
  /** Of a step of `prefillChunk` tokens: its rows in f32. What the backend needs beside them (quantized rows, room of each thread) is not counted. */
  readonly activations: number;
  readonly total: number;
  readonly available: number;
  readonly verdict: Verdict;
}

const OPTIONS = Object.keys({
  runtime: true,
  adapters: true,
  contextLength: true,
  sequences: true,
  prefillChunk: true,
  dtype: true,
  head: true,
  formatOf: true,
  available: true,
  signal: true,
} satisfies Record<keyof EstimateOptions, true>);

const USUAL_CONTEXT = 4096;

/**
 * Reads headers, config.json and small tensors such as norms.
 * Throws as `loadModel` does for a checkpoint that it would not load, and what `runtime.select` throws where no backend runs it.
 *
 * @example
 * const { total, verdict } = await estimateMemory(checkpoint, { runtime, contextLength: 8192 });
 */
export async function estimateMemory(checkpoint: Checkpoint, options: EstimateOptions): Promise<MemoryEstimate> {
  checkOptionNames('estimateMemory', options, OPTIONS);
  checkCheckpoint('estimateMemory', checkpoint);
  checkLoadingRuntime('estimateMemory', options.runtime);
  const { runtime, dtype, signal, sequences = 1, prefillChunk = DEFAULT_CHUNK, formatOf } = options;
  for (const [name, value] of Object.entries({ sequences, prefillChunk })) {
    if (Number.isInteger(value) && value >= 1) continue;
    throw new LowbitError('ERR_BAD_ARGUMENT', `${name} is ${value}, expected a whole number from 1`, { details: { [name]: value } });
  }
  const adapter = adapterFor(checkpoint.config, [...(options.adapters ?? []), ...defaultAdapters]);
  const logical = logicalModel(checkpoint, adapter);
  const {
    program,
    encoder,
    images,
    contextLength: most,
  } = await adapter.describe(checkpoint.config, {
    entries: logical.entries,
    read: (name) => readLogical(checkpoint, name, signal),
  });
  const contextLength = boundedContext(options.contextLength ?? Math.min(most, USUAL_CONTEXT), most);
  const partOf = async (part: Program, tokens: number, head: Quantizer | undefined) => {
    const output = head === undefined ? undefined : { index: outputLinear(part), quantizer: checkHead(head) };
    const stored = storedFormats(checkpoint, logical, part.linears, dtype);
    const questions = part.linears.map((use, i) => {
      const format = formatOf?.(use.path) ?? stored[i]!;
      return { ...use, format: i === output?.index ? headFormat(format, use, output.quantizer) : format };
    });
    const backend = await runtime.select(
      questions.map(({ format, shape, use }) => ({ format, shape, use })),
      part,
    );
    const weights = questions.reduce((sum, { format, shape, use, bias }) => {
      const support = backend.supports({ format, shape, use });
      return sum + (support.level === 'none' ? 0 : support.bytes) + (bias === undefined ? 0 : 4 * shape[0]);
    }, 0);
    const size = { sequences, positions: contextLength, tokens, encoder: encoder ? contextLength : 0, kvDtype: backend.kvDtype };
    return { backend, weights, ...programBytes(part, size) };
  };
  const own = await partOf(program, Math.min(prefillChunk, contextLength), options.head);
  const reading = encoder && (await partOf(encoder.program, contextLength, undefined)); // an encoder reads a prompt at once
  const seeing = images && images.program !== program ? await partOf(images.program, towerPositions({ images }), undefined) : undefined;
  const { backend } = own;
  const weights = own.weights + (reading?.weights ?? 0) + (seeing?.weights ?? 0);
  const kvCache = own.cache + (reading?.cache ?? 0);
  const activations = Math.max(own.activations, reading?.activations ?? 0, seeing?.activations ?? 0);
  const total = weights + kvCache + activations;
  const available = options.available ?? backend.device.memory;
  const verdict = total <= 0.8 * available ? 'fits' : total <= available ? 'tight' : 'no';
  return {
    ...{ backend: backend.name, device: backend.device.label, contextLength, sequences },
    ...{ weights, kvCache, activations, total, available, verdict },
  };
}
