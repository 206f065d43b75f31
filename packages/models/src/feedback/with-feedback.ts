// A quantizer whose channels make up for one another's errors.

import {
  type Affine,
  codecFor,
  type Format,
  float32Tensor,
  type HostTensor,
  hostTensor,
  type Importance,
  isQuantizer,
  LowbitError,
  type Matrix,
  memoryReader,
  memoryWriter,
  type PartWriter,
  packing,
  type QuantizeContext,
  type Quantizer,
  toFloat32,
  type WeightError,
  type WeightReader,
  writeFloat32,
} from '@lowbit/core';
import type { Rounded, StoredFloat } from './descent.ts';
import { trusted } from './factor.ts';
import { type FeedbackRoutines, feedbackRoutines } from './routines.ts';

/** Of `withFeedback`. */
export interface FeedbackOptions {
  /** How much of the second moments between different channels is believed, above 0 to 1; default 0.75. */
  readonly trust?: number | undefined;
  /** How often grids and codes are gone over again when all are there, each moved to what is best beside the others; whole, from 0; default 3. */
  readonly sweeps?: number | undefined;
}

/** What `withFeedback` gives. */
export interface FeedbackQuantizer extends Quantizer {
  /** The quantizer that it is over, which needs no matrix: what a choice is tested with, as matrices are found only while a model is quantized. */
  readonly plain: Quantizer;
}

/** Goes up when the same settings would give other bytes. */
const ALGORITHM_VERSION = 2;

/** The first few do nearly all. */
const MOST_SWEEPS = 100;

/** Weights that are gone through together, about: they, what they are off by and their codes take 9 bytes each. */
const BLOCK_WEIGHTS = 1 << 21;

/**
 * The same format, with codes chosen one input channel after another so that later ones make up for the errors of earlier ones at the layer's output. Every group's grid is
 * what `quantizer` fits to what the group should then come to. Files are the quantizer's: any reader loads them.
 *
 * Needs importance of kind `matrix`, from `checkpointImportance(checkpoint, { kind: 'matrix' })`, of what the model itself writes or of texts like those it will read: that of random tokens
 * is of things that do not go together in text. Holds, beside the weight's budget, 16 bytes for every pair of input channels and one for every weight.
 *
 * @throws ERR_BAD_ARGUMENT for options or a quantizer that cannot be used: one that looks at no importance. The quantizer itself throws ERR_UNSUPPORTED_FORMAT for formats other
 * than plain grids in groups along rows, and ERR_BAD_ARGUMENT without the matrix
 *
 * @example
 * const importance = await checkpointImportance(checkpoint, { runtime, ids, kind: 'matrix' });
 * await quantizeCheckpoint(checkpoint, { out, adapters: [llama], quantizer: withFeedback(hqq({ bits: 3, solver: 'least-squares' })), importance });
 */
export function withFeedback(quantizer: Quantizer, options: FeedbackOptions = {}): FeedbackQuantizer {
  const { trust = 0.75, sweeps = 3 } = options;
  if (!isQuantizer(quantizer) || quantizer.usesImportance === false || quantizer.usesImportance === 'matrix') {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'withFeedback needs a quantizer that looks at importance, and has no feedback yet', {
      hint: "Pass hqq({ solver: 'least-squares' }).",
    });
  }
  if (!(typeof trust === 'number' && trust > 0 && trust <= 1)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `withFeedback: trust cannot be ${trust}`, {
      hint: 'Use a number above 0 and at most 1.',
      details: { option: 'trust', value: trust },
    });
  }
  if (!(Number.isInteger(sweeps) && sweeps >= 0 && sweeps <= MOST_SWEEPS)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `withFeedback: sweeps cannot be ${sweeps}`, {
      hint: `Use a whole number from 0 to ${MOST_SWEEPS}.`,
      details: { option: 'sweeps', value: sweeps },
    });
  }
  const factorsOf = async (
    weight: WeightReader,
    importance: Importance | undefined,
    routines: FeedbackRoutines,
    signal: AbortSignal | undefined,
  ): Promise<Factors | undefined> => {
    const inputs = weight.shape[1];
    const known = importance && last.get(importance);
    if (known?.inputs === inputs && known.trust === trust) {
      const shared = await known.factors.then(
        (factors) => ({ factors }),
        () => undefined, // whoever made them was stopped, or had another backend
      );
      if (shared) return shared.factors;
      signal?.throwIfAborted();
    }
    const factors = factored(weight, importance, trust, routines, signal);
    if (importance) {
      const now = new WeakMap([[importance, { inputs, trust, factors }]]);
      last = now;
      factors.catch(() => now.delete(importance)); // a backend that failed once is no reason to refuse the next
    }
    return factors;
  };
  return {
    ...quantizer,
    identity: JSON.stringify(['feedback', ALGORITHM_VERSION, trust, sweeps, quantizer.identity]),
    usesImportance: 'matrix',
    plain: quantizer,
    format(shape, metaDtype) {
      const format = quantizer.format(shape, metaDtype);
      checkGrid(format, shape);
      return format;
    },
    async quantize(weight, format, out, context) {
      const routines = feedbackRoutines(context.routine);
      const factors = await factorsOf(weight, context.importance, routines, context.signal);
      if (factors === undefined) return quantizer.quantize(weight, format, out, { ...context, importance: undefined });
      return roundInOrder(quantizer, weight, checkGrid(format, weight.shape), out, context, { ...factors, sweeps, routines });
    },
  };
}

/**
 * Of the importance at hand, whichever quantizer it is for: linears that read the same inputs come one after another. Weakly, for factors are as large as it, and nobody says which linear is
 * the last.
 */
let last = new WeakMap<Importance, { readonly inputs: number; readonly trust: number; readonly factors: Promise<Factors | undefined> }>();

interface Factors {
  readonly coupling: HostTensor;
  readonly cost: Float64Array;
  /** Of `descend`. */
  readonly moments: HostTensor;
  readonly own: HostTensor;
}

async function factored(
  { name, shape }: WeightReader,
  importance: Importance | undefined,
  trust: number,
  routines: FeedbackRoutines,
  signal: AbortSignal | undefined,
): Promise<Factors | undefined> {
  const costs = trusted(name, importance, shape, trust);
  if (costs === undefined) return undefined;
  const { coupling, cost } = await routines.factor(costs.matrix, signal);
  const wrong = cost.findIndex((value) => !(value > 0 && value < Number.POSITIVE_INFINITY));
  if (wrong < 0) return { coupling, cost, moments: importance!.moments, own: costs.own };
  throw new LowbitError(
    'ERR_BAD_ARGUMENT',
    `the importance of input ${wrong} is not that of samples: its moments with others are larger than its own`,
    {
      hint: 'Give what collectImportance made for this linear.',
      details: { kind: importance?.kind, input: wrong, value: cost[wrong] },
    },
  );
}

const isStoredFloat = (dtype: unknown): boolean => dtype === 'f32' || dtype === 'f16' || dtype === 'bf16';

/** Throws ERR_UNSUPPORTED_FORMAT unless groups are runs of a row, with numbers of their own that are stored as they are. */
function checkGrid(format: Format, [out, inp]: Matrix): PlainGrid {
  if (format.kind === 'affine' && format.axis === 1 && isStoredFloat(format.scale) && isStoredFloat(format.zero)) {
    if (inp % (format.group ?? inp) === 0) return format as PlainGrid;
  }
  throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `feedback takes grids in groups that divide a row of a [${out}, ${inp}] weight`, {
    hint: 'Use axis 1 and a group size that divides in_features, with scales and zeros stored as they are; or keep this layer out with a rule.',
    details: { shape: [out, inp], format: format.kind },
  });
}

type PlainGrid = Affine & { readonly scale: StoredFloat; readonly zero: StoredFloat };

async function roundInOrder(
  quantizer: Quantizer,
  weight: WeightReader,
  format: PlainGrid,
  out: PartWriter,
  context: QuantizeContext,
  { coupling, cost, moments, own, sweeps, routines }: Factors & { readonly sweeps: number; readonly routines: FeedbackRoutines },
): Promise<WeightError> {
  const [rows, inp] = weight.shape;
  const size = format.group ?? inp;
  const groups = inp / size;
  const codes = new Uint8Array(rows * inp);
  const step = Math.max(1, Math.floor(BLOCK_WEIGHTS / inp));
  const error = { squaredError: 0, squaredWeight: 0, maxAbs: 0 };
  for (let first = 0; first < rows; first += step) {
    const count = Math.min(step, rows - first);
    const weights = new Float32Array(count * inp);
    await weight.read(first * inp, (first + count) * inp, weights);
    let errors = new Float32Array(count * inp);
    let found: Rounded = {
      codes: new Uint8Array(count * inp),
      scale: new Float32Array(count * groups),
      zero: new Float32Array(count * groups),
    };
    for (let group = 0; group < groups; group++) {
      context.signal?.throwIfAborted();
      const block = { weights: float32Tensor([count, inp], weights), errors: float32Tensor([count, inp], errors), coupling };
      const place = { from: group * size, size };
      const targets = await routines.targets(block, place);
      const [scale, zero] = await fitted(quantizer, weight.name, targets, format, cost.subarray(place.from, place.from + size), context);
      const nearest = await routines.codes(block, { targets, scale, zero }, { ...place, levels: format.levels });
      for (let r = 0; r < count; r++) {
        found.scale[r * groups + group] = scale[r]!;
        found.zero[r * groups + group] = zero[r]!;
        found.codes.set(nearest.codes.subarray(r * size, (r + 1) * size), r * inp + place.from);
        errors.set(nearest.errors.subarray(r * size, (r + 1) * size), r * inp + place.from);
      }
    }
    if (sweeps > 0) {
      context.signal?.throwIfAborted();
      const how = { size, sweeps, levels: format.levels, scaleDtype: format.scale, zeroDtype: format.zero };
      ({ errors, ...found } = await routines.descend(float32Tensor([count, inp], weights), { moments, own }, found, how, context.signal));
    }
    codes.set(found.codes, first * inp);
    for (const part of ['scale', 'zero'] as const) await out.write(part, first * groups, writeFloat32(format[part], found[part]));
    for (let i = 0; i < errors.length; i++) {
      error.squaredError += errors[i]! ** 2;
      error.squaredWeight += weights[i]! ** 2;
      error.maxAbs = Math.max(error.maxAbs, Math.abs(errors[i]!));
    }
    context.onWeights?.(count * inp);
  }
  await out.write('codes', 0, packing(format.packing).pack(codes, rows * groups, size));
  return error;
}

/** The grids, f32 [rows] each, that a quantizer finds for the targets of a group of channels, f32 [rows, size], of which being off costs `cost`. */
async function fitted(
  quantizer: Quantizer,
  name: string,
  targets: HostTensor,
  { scale }: PlainGrid,
  cost: Float64Array,
  { budget, signal, routine, workers }: QuantizeContext,
): Promise<readonly [scale: Float32Array, zero: Float32Array]> {
  const reader = memoryReader(name, targets);
  const format = quantizer.format(reader.shape, scale);
  const { writer, parts } = memoryWriter(codecFor(format).parts(format, reader.shape));
  const importance: Importance = { kind: 'diagonal', moments: hostTensor('f32', [cost.length], Float32Array.from(cost)), rows: 1 };
  await quantizer.quantize(reader, format, writer, { budget, signal, routine, workers, importance });
  return [toFloat32(parts.scale!), toFloat32(parts.zero!)];
}
