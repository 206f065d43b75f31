// What quantizing did to each linear: the error of its weight, and of its output for inputs that it really gets.
//
// Inputs come from the reference, layer by layer. For each linear a program of two products, by the weight and by its error, runs on those rows, so a layer's
// error is that of this layer alone, not of what came before it.

import {
  type CallOptions,
  type Checkpoint,
  checkOptionNames,
  dequantize,
  elements,
  type Format,
  float32Tensor,
  hostTensor,
  LowbitError,
  type Matrix,
  type ModelAdapter,
  type QuantizedTensor,
  toFloat32,
} from '@lowbit/core';
import { type LoadedProgram, loadProgram, ProgramBuilder, type ProgramRuntime } from '@lowbit/program';
import { checkCheckpoint, checkLoadingRuntime, checkSampleIds } from '../arguments.ts';
import { tokenIds } from '../model/ids.ts';
import type { ReadWeight } from '../model/stored.ts';
import { openProgram } from './open-program.ts';
import { type InputRows, streamInputs } from './stream-inputs.ts';

export interface LinearErrorsOptions extends CallOptions {
  readonly runtime: ProgramRuntime;
  /** Sample texts as token ids, each from position 0. */
  readonly ids: readonly ArrayLike<number>[];
  /** Architectures beyond the built-in ones; they are asked first. */
  readonly adapters?: readonly ModelAdapter[] | undefined;
}

const OPTIONS = Object.keys({ runtime: true, ids: true, adapters: true, signal: true, onProgress: true } satisfies Record<
  keyof LinearErrorsOptions,
  true
>);

/** Of one linear of the model against that of the reference. */
export interface LinearError {
  readonly path: string;
  readonly shape: Matrix;
  /** As the model has it. */
  readonly format: Format;
  /** Sum of squared differences of the weights over the sum of the reference's squares, and the same in decibels; Infinity for equal weights. */
  readonly weightError: number;
  readonly snrDb: number;
  /** E|(W - W')x|^2 / E|Wx|^2 over the sampled inputs x, and its standard error (ratio of means, tokens taken as independent). 0 without rows. */
  readonly outputError: number;
  readonly outputErrorStderr: number;
  /** Inputs that were sampled: tokens, or those routed to an expert. */
  readonly rows: number;
}

/** Sums over rows: squares of outputs and of their errors. */
interface Sums {
  signal: number;
  error: number;
  signalSquares: number;
  errorSquares: number;
  products: number;
  rows: number;
}

/**
 * Errors of every linear that the model stores in another way than the reference, in the order of the layers. One layer of the reference and one linear of
 * the model are in memory at a time.
 * Throws ERR_TENSOR_MISMATCH for linears of other shapes, ERR_BAD_ARGUMENT without samples, ERR_NON_FINITE (weights, or outputs), and what `loadModel`
 * throws for unusable checkpoints and ids.
 *
 * @example
 * const errors = await linearErrors(quantized, original, { runtime, ids: [randomTokens(vocab, 256)] });
 */
export async function linearErrors(
  model: Checkpoint,
  reference: Checkpoint,
  options: LinearErrorsOptions,
): Promise<readonly LinearError[]> {
  for (const one of [model, reference]) checkCheckpoint('linearErrors', one);
  checkOptionNames('linearErrors', options, OPTIONS);
  checkLoadingRuntime('linearErrors', options?.runtime);
  const { runtime, ids, adapters = [], signal, onProgress } = options;
  checkSampleIds('linearErrors', ids);
  const original = await openProgram(reference, adapters, 'what errors cost', signal);
  const other = await openProgram(model, adapters, 'what errors cost', signal);
  const { program } = original;
  const uses = new Map(program.linears.map((use) => [use.path, use]));
  const found = new Map<
    string,
    { readonly weight: Omit<LinearError, 'outputError' | 'outputErrorStderr' | 'rows'>; readonly sums: Sums }
  >();
  /** Rows of one layer, sample after sample, until the layer is done. */
  const waiting = new Map<string, InputRows[]>();
  await streamInputs(program, {
    runtime,
    loadWeight: async (use) => ({ weight: await original.readWeight(use, signal) }),
    ids: ids.map((sample) => tokenIds(sample, original)),
    signal,
    onProgress,
    phase: 'layers',
    onRows(input) {
      const list = waiting.get(input.key);
      if (list) list.push({ ...input, rows: input.rows.slice() });
      else waiting.set(input.key, [{ ...input, rows: input.rows.slice() }]);
    },
    async onLayer() {
      for (const inputs of waiting.values()) {
        for (const path of inputs[0]!.paths) {
          signal?.throwIfAborted();
          const { shape } = uses.get(path)!;
          const pair = await readPair(path, shape, original.readWeight, other.readWeight, signal);
          if (!pair) continue;
          const entry = found.get(path) ?? { weight: weightError(path, pair), sums: newSums() };
          found.set(path, entry);
          await addOutputs(entry.sums, pair, inputs, runtime, signal);
          if (!Number.isFinite(entry.sums.signal)) throw nonFinite(path, `the outputs of ${path} in the reference`);
          if (!Number.isFinite(entry.sums.error)) throw nonFinite(path, `the errors of the outputs of ${path}`);
        }
      }
      waiting.clear();
    },
  });
  return [...found.values()].map(({ weight, sums }) => ({ ...weight, ...ratioOf(sums), rows: sums.rows }));
}

interface Pair {
  readonly stored: QuantizedTensor;
  readonly weight: Float32Array;
  readonly error: Float32Array;
}

/** Weight and error of a linear; undefined where the model stores it as the reference does. */
async function readPair(
  path: string,
  shape: Matrix,
  readReference: ReadWeight,
  readModel: ReadWeight,
  signal: AbortSignal | undefined,
): Promise<Pair | undefined> {
  const reference = await readReference({ path, shape }, signal);
  const stored = await readModel({ path, shape }, signal);
  if (stored.shape.some((extent, i) => extent !== reference.shape[i])) {
    throw new LowbitError(
      'ERR_TENSOR_MISMATCH',
      `${path} is [${stored.shape.join(', ')}] in the model, [${reference.shape.join(', ')}] in the reference`,
      {
        hint: 'Compare a model with the one it was made from.',
        details: { path, expected: reference.shape, actual: stored.shape },
      },
    );
  }
  const [weight, got] = [toFloat32(dequantize(reference)), toFloat32(dequantize(stored))];
  if (!weight.every(Number.isFinite)) throw nonFinite(path, `the weight of ${path} in the reference`);
  if (!got.every(Number.isFinite)) throw nonFinite(path, `the weight of ${path} in the model`);
  const error = weight.map((w, i) => w - got[i]!);
  return stored.format.kind === 'dense' && error.every((e) => e === 0) ? undefined : { stored, weight, error };
}

function nonFinite(path: string, what: string): LowbitError {
  return new LowbitError('ERR_NON_FINITE', `${what}: there is NaN or infinity, so there is no error to tell`, {
    hint: 'The weights may be damaged: fetch the model again, or quantize it again.',
    details: { path },
  });
}

function weightError(path: string, { stored, weight, error }: Pair): Omit<LinearError, 'outputError' | 'outputErrorStderr' | 'rows'> {
  const [signal, noise] = [weight, error].map((values) => values.reduce((sum, value) => sum + value * value, 0)) as [number, number];
  const ratio = signal > 0 ? noise / signal : Number(noise > 0);
  return { path, shape: stored.shape, format: stored.format, weightError: ratio, snrDb: -10 * Math.log10(ratio) };
}

const newSums = (): Sums => ({ signal: 0, error: 0, signalSquares: 0, errorSquares: 0, products: 0, rows: 0 });

/** Adds the squared outputs of both matrices for all rows. */
async function addOutputs(
  sums: Sums,
  { stored: { shape }, weight, error }: Pair,
  inputs: readonly InputRows[],
  runtime: ProgramRuntime,
  signal: AbortSignal | undefined,
): Promise<void> {
  const longest = Math.max(...inputs.map(({ rows, width }) => rows.length / width));
  if (longest === 0) return;
  await using loaded = await products(shape, weight, error, longest, runtime, signal);
  for (const { rows, width } of inputs) {
    const count = rows.length / width;
    if (count === 0) continue;
    const id = loaded.open();
    const step = { id, tokens: new Uint32Array(count), wanted: Uint32Array.from({ length: count }, (_, i) => i) };
    const made = await loaded.step([{ ...step, inputs: { x: hostTensor('f32', [count, width], rows) } }], { signal });
    signal?.throwIfAborted();
    loaded.close(id);
    const [outputs, errors] = [made.outputs!, made.errors!].map(({ data }) => elements({ dtype: 'f32', data }));
    for (let row = 0; row < count; row++) addRow(sums, square(outputs!, row, shape[0]), square(errors!, row, shape[0]));
  }
}

function square(values: Float32Array, row: number, width: number): number {
  let sum = 0;
  for (let i = row * width; i < (row + 1) * width; i++) sum += values[i]! * values[i]!;
  return sum;
}

function addRow(sums: Sums, signal: number, error: number): void {
  sums.signal += signal;
  sums.error += error;
  sums.signalSquares += signal * signal;
  sums.errorSquares += error * error;
  sums.products += signal * error;
  sums.rows++;
}

/** x -> W x and (W - W') x. */
function products(
  shape: Matrix,
  weight: Float32Array,
  error: Float32Array,
  rows: number,
  runtime: ProgramRuntime,
  signal: AbortSignal | undefined,
): Promise<LoadedProgram> {
  const builder = new ProgramBuilder({ layers: 0 });
  const x = builder.input('x', { width: shape[1] });
  const paths = ['outputs', 'errors'];
  for (const path of paths) builder.output(path, builder.linear(x, builder.addLinear(path, shape)));
  const format = { kind: 'dense', dtype: 'f32' } as const;
  const matrices = [weight, error];
  return loadProgram(
    runtime,
    builder.build(),
    async (_, index) => ({ weight: { format, shape, parts: { weight: float32Tensor(shape, matrices[index]!) } } }),
    { contextLength: rows, maxSequences: 1, signal },
  );
}

/** A ratio of two means and its standard error, by the residuals e - r s of the rows. */
function ratioOf({
  signal,
  error,
  signalSquares,
  errorSquares,
  products: both,
  rows,
}: Sums): Pick<LinearError, 'outputError' | 'outputErrorStderr'> {
  const ratio = signal > 0 ? error / signal : 0;
  const residuals = Math.max(0, errorSquares - 2 * ratio * both + ratio * ratio * signalSquares);
  const stderr = rows > 1 && signal > 0 ? Math.sqrt((residuals * rows) / (rows - 1)) / signal : 0;
  return { outputError: ratio, outputErrorStderr: stderr };
}
