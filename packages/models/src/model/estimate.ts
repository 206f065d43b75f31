// What a model will take, known from its headers: nothing is loaded.

import {
  adapterFor,
  type Backend,
  byteLength,
  type Checkpoint,
  checkOptionNames,
  codecFor,
  type Format,
  LowbitError,
  type Matrix,
  type ModelAdapter,
  type Program,
  type Quantizer,
  type Runtime,
  type StepBytes,
  type StepSize,
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
  /** Bytes that the model may take; default the memory of the backend's device, in a browser that tells it `navigator.deviceMemory`. */
  readonly available?: number;
  readonly signal?: AbortSignal | undefined;
}

/** fits: at most 80 % of what is available. tight: at most all of it. unknown: nobody says how much is available, as a browser of its GPU. */
export type Verdict = 'fits' | 'tight' | 'no' | 'unknown';

/** Bytes on the device. */
export interface MemoryEstimate {
  readonly backend: string;
  readonly device: string;
  readonly contextLength: number;
  readonly sequences: number;
  /** What `model.memory().weights` will say. */
  readonly weights: number;
  /** The same weights as their formats have them. What `weights` has more is the backend's padding of rows and columns, and its wider scales and tables. */
  readonly packed: number;
  /** Norms and tables of positions. */
  readonly constants: number;
  /** Of full sequences: what `model.memory().kvCache` will say then. */
  readonly kvCache: number;
  /** At most, while a step of `prefillChunk` tokens runs or one of a token of each sequence. */
  readonly activations: number;
  /** Whether the backend itself said what its steps take. If not, `activations` are the rows of f32 that are needed at a time: all there is on the reference backend, not on others. */
  readonly counted: boolean;
  /** What `Backend.allocated` says at most, while the model is the only one there. */
  readonly total: number;
  /** Undefined where nobody says. */
  readonly available?: number;
  readonly verdict: Verdict;
  /** Of `no` whatever memory there is: a limit of the device, such as the largest buffer of a GPU. */
  readonly reason?: string;
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
  const partOf = async (part: Program, full: StepSize, steps: readonly StepSize[], head?: Quantizer): Promise<Part> => {
    const output = head === undefined ? undefined : { index: outputLinear(part), quantizer: checkHead(head) };
    const stored = storedFormats(checkpoint, logical, part.linears, dtype);
    const questions = part.linears.map((use, i) => {
      const format = formatOf?.(use.path) ?? stored[i]!;
      return { ...use, format: i === output?.index ? headFormat(format, use, output.quantizer) : format };
    });
    const requests = questions.map(({ format, shape, use }) => ({ format, shape, use }));
    const backend = await runtime.select(requests, part);
    let weights = 0;
    let packed = 0;
    for (const { format, shape, use, bias } of questions) {
      const support = backend.supports({ format, shape, use });
      const beside = bias === undefined ? 0 : 4 * shape[0];
      weights += beside + (support.level === 'none' ? 0 : support.bytes);
      packed += beside + partBytes(format, shape, runtime);
    }
    const measure = (size: StepSize): StepBytes => backend.measure?.(part, requests, size) ?? programBytes(part, size, backend.kvDtype);
    const { constants, cache } = measure(full);
    return { backend, weights, packed, constants, cache, steps: steps.map(measure) };
  };
  const tokens = Math.min(prefillChunk, contextLength);
  const last = { contextLength, sequences: 1, tokens, outputs: 1, encoder: 0 };
  const all = { ...last, sequences, tokens: 1 };
  // Rows of an encoder come with the first step.
  const first = { ...last, contextLength: tokens, encoder: contextLength };
  const own = encoder
    ? await partOf(program, { ...all, encoder: contextLength }, [last, all, first], options.head)
    : await partOf(program, all, [last, all], options.head);
  const others: Part[] = [];
  // An encoder reads a prompt at once, a tower an image.
  const whole = (rows: number): StepSize => ({ ...last, contextLength: rows, tokens: rows });
  if (encoder) others.push(await partOf(encoder.program, whole(contextLength), [whole(contextLength)]));
  if (images && images.program !== program) {
    const rows = towerPositions({ images });
    others.push(await partOf(images.program, whole(rows), [whole(rows)]));
  }
  const { backend } = own;
  const parts = [own, ...others];
  const bytes = {
    weights: sum(parts.map(({ weights }) => weights)),
    constants: sum(parts.map(({ constants }) => constants)),
    kvCache: sum(parts.map(({ cache }) => cache)),
    activations: mostActivations(own, others, sequences),
  };
  const total = sum(Object.values(bytes));
  const available = options.available ?? deviceMemory(backend);
  const reason = parts.flatMap(({ steps }) => steps.flatMap(({ refused }) => refused ?? []))[0];
  return {
    ...{ backend: backend.name, device: backend.device.label, contextLength, sequences },
    ...bytes,
    packed: sum(parts.map((part) => part.packed)),
    counted: parts.every((part) => part.backend.measure !== undefined),
    total,
    ...(available === undefined ? {} : { available }),
    verdict: reason === undefined ? verdictOf(total, available) : 'no',
    ...(reason === undefined ? {} : { reason }),
  };
}

/** Among the steps of a decoder with an encoder: the first of a text. */
const FIRST = 2;

/** One program of a model on its backend, with full caches, and the steps that it runs. */
interface Part {
  readonly backend: Backend;
  readonly weights: number;
  readonly packed: number;
  readonly constants: number;
  readonly cache: number;
  readonly steps: readonly StepBytes[];
}

const sum = (numbers: readonly number[]): number => numbers.reduce((all, each) => all + each, 0);

function partBytes(format: Format, shape: Matrix, { codecs }: Runtime): number {
  return sum(Object.values(codecFor(format, codecs).parts(format, shape)).map(byteLength));
}

/**
 * Beyond full caches. One program steps at a time; what the others keep of their last step is there meanwhile. An encoder reads, and a tower sees, before the
 * text has keys and values, and its first step comes before it has many.
 */
function mostActivations(own: Part, others: readonly Part[], sequences: number): number {
  const text = own.cache / sequences;
  const kept = (parts: readonly Part[]): number => sum(parts.map(({ steps }) => Math.max(...steps.map((step) => step.kept))));
  return Math.max(
    ...own.steps.map(({ scratch, cache }, i) => kept(others) + (i === FIRST ? scratch + cache - text : Math.max(scratch, kept([own])))),
    ...others.map((part) => part.steps[0]!.scratch + kept([own, ...others].filter((other) => other !== part)) - text),
  );
}

/** A GPU of a browser tells nothing (0); what the browser tells of the machine, in GiB and rounded down, bounds a tab, too. */
function deviceMemory({ device }: Backend): number | undefined {
  if (device.memory > 0) return device.memory;
  const { navigator } = globalThis as { readonly navigator?: { readonly deviceMemory?: unknown } };
  return typeof navigator?.deviceMemory === 'number' ? navigator.deviceMemory * 2 ** 30 : undefined;
}

function verdictOf(total: number, available: number | undefined): Verdict {
  if (available === undefined) return 'unknown';
  return total <= 0.8 * available ? 'fits' : total <= available ? 'tight' : 'no';
}
