// How much a model suffers from errors in each of its linears: the alpha_l of the linearity theorem (arXiv 2411.17525), measured by adding noise.
//
// One linear at a time gets noise of a known size, and the model's outputs are compared with those of the unchanged model. Naively that is a pass of the
// whole model per linear. Here the model runs once, piece by piece, and carries all its noisy variants along: a variant begins at its own layer, from
// the unchanged residual stream, so nothing in front of it is computed again; every weight is read once; and only one layer's weights are on the backend
// at a time. What is held is the residual stream of every variant: tokens x hidden floats each.

import { type CallOptions, type Checkpoint, checkOptionNames, LowbitError, type ModelAdapter, type ModelDescription } from '@lowbit/core';
import { cutProgram, loadProgram, type ProgramRuntime } from '@lowbit/program';
import { fitSensitivity, type SensitivityPoint } from '../allocation/index.ts';
import { checkCheckpoint, checkLoadingRuntime, checkSampleIds } from '../arguments.ts';
import { tokenIds } from '../model/ids.ts';
import { openProgram } from './open-program.ts';
import { Carrier, STEP_SEQUENCES, type Variant } from './variants.ts';

/** What the loss is: KL(unchanged || noisy) per token in nats, or the increase of the perplexity, which needs a text. */
export type SensitivityMetric = 'kl' | 'perplexity';

export interface MeasureSensitivitiesOptions extends CallOptions {
  readonly runtime: ProgramRuntime;
  /** Sample texts as token ids, each from position 0. Uniformly random ids (`randomTokens`) do for `kl`. */
  readonly ids: readonly ArrayLike<number>[];
  readonly metric?: SensitivityMetric | undefined;
  /** Sizes of the noise, t^2: squared errors relative to the weight's square sum. Each costs a run of all variants. Default 0.02. */
  readonly levels?: readonly number[] | undefined;
  /** Paths of the linears to measure. Default all of the layers; those outside, such as `lm_head`, only if named. */
  readonly linears?: readonly string[] | undefined;
  readonly seed?: number | undefined;
  /** Most bytes of residual streams, which all noisy variants carry along. Default 4 GiB. */
  readonly streamMemory?: number | undefined;
  /** Architectures beyond the built-in ones; they are asked first. */
  readonly adapters?: readonly ModelAdapter[] | undefined;
}

/** What errors in one linear cost. */
export interface LinearSensitivity {
  readonly path: string;
  /** Expected loss per unit of relative squared error; may be below 0 for perplexity, where that is noise. */
  readonly sensitivity: number;
  /** What it was fitted to. */
  readonly points: readonly SensitivityPoint[];
}

/** What errors in each linear cost. */
export interface Sensitivities {
  readonly metric: SensitivityMetric;
  /** Tokens that were run. */
  readonly tokens: number;
  readonly linears: readonly LinearSensitivity[];
}

const OPTIONS = ['runtime', 'ids', 'metric', 'levels', 'linears', 'seed', 'streamMemory', 'adapters', 'signal', 'onProgress'];

/** Within the range where loss is linear in the error, and large enough to be told from rounding. */
const DEFAULT_LEVELS: readonly number[] = [0.02];
const DEFAULT_STREAM_MEMORY = 4 * 2 ** 30;

/**
 * Sensitivities of linears: for each, and each level of noise, the loss of the model in which it alone is noisy; fitted by a line through the origin.
 * For `allocateBits` of `@lowbit/models/allocation`. Equal arguments give equal numbers. The cost is about half a pass of all tokens through the model
 * per linear and level; memory is one layer's weights, and for every linear and level the residual stream of the tokens.
 *
 * Throws ERR_BAD_ARGUMENT (no tokens, ids beyond the vocabulary, levels that are no numbers above 0, linears that the model does not have), ERR_LIMIT (a
 * sample longer than the context, residual streams over `streamMemory`), ERR_NON_FINITE (logits), and what `loadModel` throws for unusable checkpoints.
 *
 * @example
 * const { linears } = await measureSensitivities(checkpoint, { runtime, ids: [randomTokens(vocab, 256)] });
 */
export async function measureSensitivities(checkpoint: Checkpoint, options: MeasureSensitivitiesOptions): Promise<Sensitivities> {
  checkCheckpoint('measureSensitivities', checkpoint);
  checkLoadingRuntime('measureSensitivities', options?.runtime);
  checkOptionNames('measureSensitivities', options, OPTIONS);
  const {
    metric = 'kl',
    levels = DEFAULT_LEVELS,
    seed = 1,
    adapters = [],
    runtime,
    signal,
    onProgress,
    streamMemory = DEFAULT_STREAM_MEMORY,
  } = options;
  signal?.throwIfAborted();
  checkLevels(levels);
  const model = await openProgram(checkpoint, adapters, 'sensitivity', signal);
  if (model.program.outputs.logits === undefined) {
    throw new LowbitError('ERR_UNSUPPORTED_ARCH', `${checkpoint.label} gives no logits, so there is nothing to compare`);
  }
  checkSampleIds('measureSensitivities', options.ids);
  const samples = options.ids.map((sample) => tokenIds(sample, model));
  checkSamples(samples, metric);
  const paths = chosenPaths(model, options.linears, checkpoint.label);

  const { program } = model;
  // What comes before the first layer and after the last are pieces of their own, so that their large tables are never held beside a layer.
  const pieces = cutProgram(program, program.layers === 0 ? [0] : [0, ...new Array<number>(program.layers).fill(1), 0]);
  checkMemory(pieces, samples, paths.size * levels.length, streamMemory);
  const carrier = new Carrier({
    samples,
    metric,
    vocab: model.vocab,
    total: workOf(pieces, paths, levels.length, samples),
    signal,
    onProgress,
  });
  for (const [at, piece] of pieces.entries()) {
    signal?.throwIfAborted();
    await using loaded = await loadProgram(runtime, piece.program, async (use) => ({ weight: await model.readWeight(use, signal) }), {
      contextLength: Math.max(...samples.map(({ length }) => length)),
      maxSequences: STEP_SEQUENCES,
      signal,
    });
    const starts: Variant[] = [];
    for (const [index, use] of piece.program.linears.entries()) {
      if (use.use === 'embedding' || !paths.has(use.path)) continue;
      for (const error of levels) starts.push({ path: use.path, index, error, key: `${seed} ${error} ${use.path}` });
    }
    const backend = await runtime.backend(loaded.backends[0]!);
    const later = new Set(pieces.slice(at + 1).flatMap(({ takes }) => takes));
    await carrier.pass(piece, loaded, backend, starts, later);
  }
  const points = carrier.losses();
  return {
    metric,
    tokens: samples.reduce((sum, { length }) => sum + length, 0),
    linears: [...paths].map((path) => {
      const own = points.filter((point) => point.path === path).map(({ error, loss }) => ({ error, loss }));
      return { path, sensitivity: fitSensitivity(own), points: own };
    }),
  };
}

function bad(message: string, hint: string, details: Readonly<Record<string, unknown>> = {}): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', message, { hint, details });
}

function checkLevels(levels: readonly number[]): void {
  const wrong = levels.find((level) => !(level > 0 && level <= 1));
  if (levels.length > 0 && wrong === undefined && new Set(levels).size === levels.length) return;
  throw bad(
    levels.length === 0 ? 'there are no noise levels' : `levels ${levels.join(', ')} are no distinct squared errors above 0 and up to 1`,
    'A level is a squared error over the squared weights, such as 0.02.',
    { levels },
  );
}

function checkSamples(samples: readonly Uint32Array[], metric: SensitivityMetric): void {
  if (samples.length === 0) throw bad('sensitivities need samples', 'Pass token ids of a text, or randomTokens(vocab, 256).');
  if (metric === 'perplexity' && samples.some(({ length }) => length < 2)) {
    throw bad('a perplexity needs samples of at least two tokens', "Pass longer texts, or metric: 'kl'.");
  }
}

/** Every variant carries what comes between two pieces, for all tokens. */
function checkMemory(pieces: ReturnType<typeof cutProgram>, samples: readonly Uint32Array[], variants: number, streamMemory: number): void {
  const widths = pieces.map(({ program: { ops, tensors } }) =>
    ops.reduce((sum, op) => sum + (op.op === 'input' ? tensors[op.out]!.width : 0), 0),
  );
  const tokens = samples.reduce((sum, { length }) => sum + length, 0);
  const each = 4 * Math.max(...widths) * (variants + 1);
  if (each * tokens <= streamMemory) return;
  const most = Math.floor(streamMemory / each);
  throw new LowbitError(
    'ERR_LIMIT',
    `${tokens} tokens through ${variants} variants of the model take ${each * tokens} bytes, more than ${streamMemory}`,
    {
      hint: most < 1 ? 'Measure fewer linears at a time.' : `Take at most ${most} tokens.`,
      details: { tokens, bytes: each * tokens, limit: streamMemory, most },
    },
  );
}

/** The linears to measure, in the order of the program. */
function chosenPaths({ program }: ModelDescription, named: readonly string[] | undefined, label: string): ReadonlySet<string> {
  const linears = program.linears.filter(({ use }) => use !== 'embedding');
  if (named === undefined) return new Set(linears.filter(({ layer }) => layer >= 0 && layer < program.layers).map(({ path }) => path));
  const all = new Set(linears.map(({ path }) => path));
  const missing = named.find((path) => !all.has(path));
  if (missing !== undefined) throw bad(`${label} has no linear layer ${missing}`, 'Give module paths, without .weight.', { path: missing });
  return new Set([...all].filter((path) => named.includes(path)));
}

/** Tokens that all runs of all pieces take together. */
function workOf(
  pieces: ReturnType<typeof cutProgram>,
  paths: ReadonlySet<string>,
  levels: number,
  samples: readonly { readonly length: number }[],
): number {
  let variants = 0;
  let runs = 0;
  for (const { program } of pieces) {
    variants += levels * program.linears.filter(({ path, use }) => use !== 'embedding' && paths.has(path)).length;
    runs += 1 + variants;
  }
  return runs * samples.reduce((sum, { length }) => sum + length, 0);
}
