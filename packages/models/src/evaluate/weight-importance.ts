// Importance without running anything: what the weights alone say of how large the inputs of each linear are.
//
// A norm makes rows of unit mean square and multiplies each channel by its weight, so behind it the second moments are the squared weights. From there moments go through the
// program as if channels were independent, normal and of mean zero: a linear gives row energies, an activation its mean square over a normal distribution,
// a gate the product of both, attention the moments of the values, a sum the sum. Only the sizes of channels relative to one another matter.

import {
  type Activation,
  type CallOptions,
  type Checkpoint,
  checkOptionNames,
  dequantize,
  float32Tensor,
  type Importance,
  type LinearUse,
  type ModelAdapter,
  type Op,
  opResults,
  type Program,
  type QuantizedTensor,
  type TensorId,
  toFloat32,
} from '@lowbit/core';
import { checkCheckpoint } from '../arguments.ts';
import { logicalPrograms } from './open-program.ts';

/** Second moments of a tensor's channels: for all rows, or by the expert that the row went to. Undefined: nothing is known. */
type Moments = { readonly all: Float64Array } | { readonly experts: readonly (Float64Array | undefined)[] } | undefined;

type ReadDense = (use: Pick<LinearUse, 'path' | 'shape'>) => Promise<QuantizedTensor>;

export interface WeightImportanceOptions extends CallOptions {
  /** Architectures beyond the built-in ones; they are asked first. */
  readonly adapters?: readonly ModelAdapter[] | undefined;
}

const OPTIONS = Object.keys({ adapters: true, signal: true, onProgress: true } satisfies Record<keyof WeightImportanceOptions, true>);

/**
 * Second moments of the inputs of every linear, estimated from the weights in front of it, by path; absent where nothing is known, such as in front of the first norm.
 * Encoders are looked at, too. One weight is in memory at a time. Throws what `loadModel` throws for unusable checkpoints.
 *
 * @example
 * const importance = await weightImportance(checkpoint);
 */
export async function weightImportance(
  checkpoint: Checkpoint,
  options: WeightImportanceOptions = {},
): Promise<ReadonlyMap<string, Importance>> {
  checkCheckpoint('weightImportance', checkpoint);
  checkOptionNames('weightImportance', options, OPTIONS);
  const { adapters = [], signal, onProgress } = options;
  const { programs, readWeight } = await logicalPrograms(checkpoint, adapters, signal);
  const found = new Map<string, Importance>();
  for (const program of programs) {
    const estimated = await estimate(program, (use) => readWeight(use, signal), { signal, onProgress });
    for (const [path, importance] of estimated) found.set(path, importance);
  }
  return found;
}

/** The same for a program. `readWeight` is called for the weights whose outputs other linears read. */
export async function estimate(program: Program, readWeight: ReadDense, options: CallOptions = {}): Promise<Map<string, Importance>> {
  const walk = new Walk(program, readWeight, options.signal);
  const found = new Map<string, Importance>();
  const linears = program.ops.filter((op) => op.op === 'linear' || op.op === 'expertLinear');
  for (const [at, op] of linears.entries()) {
    options.signal?.throwIfAborted();
    const moments = await walk.of(op.x);
    const ids = op.op === 'linear' ? [op.weight] : op.linears;
    for (const [expert, id] of ids.entries()) {
      const own = moments && ('all' in moments ? moments.all : moments.experts[expert]);
      if (own) found.set(program.linears[id]!.path, { kind: 'diagonal', moments: float32Tensor([own.length], own), rows: 0 });
    }
    options.onProgress?.({ phase: 'importance', done: at + 1, total: linears.length, unit: 'linears' });
  }
  return found;
}

class Walk {
  readonly #program: Program;
  readonly #read: ReadDense;
  readonly #signal: AbortSignal | undefined;
  readonly #made = new Map<TensorId, Op>();
  readonly #known = new Map<TensorId, Moments>();

  constructor(program: Program, read: ReadDense, signal: AbortSignal | undefined) {
    this.#program = program;
    this.#read = read;
    this.#signal = signal;
    for (const op of program.ops) for (const id of opResults(op)) this.#made.set(id, op);
  }

  /** Operations are looked at when somebody reads what they make, so no weight is read in vain. */
  async of(id: TensorId): Promise<Moments> {
    if (!this.#known.has(id)) this.#known.set(id, await this.#make(this.#made.get(id)!));
    return this.#known.get(id);
  }

  async #make(op: Op): Promise<Moments> {
    this.#signal?.throwIfAborted();
    switch (op.op) {
      case 'embed':
      case 'input':
      case 'route':
      case 'remember':
        return undefined;
      case 'inject':
      case 'positionEmbed':
      case 'rope':
      case 'softcap':
      case 'select':
        return this.of(op.x);
      case 'norm': {
        const width = this.#program.tensors[op.out]!.width;
        const [weight, bias] = [op.weight, op.bias].map((constant) =>
          constant === undefined ? undefined : toFloat32(this.#program.constants[constant]!),
        );
        const one = (i: number): number =>
          ((weight ? weight[i % weight.length]! : 1) + (weight ? op.weightOffset : 0)) ** 2 + (bias ? bias[i % bias.length]! ** 2 : 0);
        return { all: Float64Array.from({ length: width }, (_, i) => one(i)) };
      }
      case 'linear':
        return map((await this.of(op.x)) ?? this.#equal(op.x), (moments) => this.#energies(op.weight, moments));
      case 'expertLinear': {
        const input = (await this.of(op.x)) ?? this.#equal(op.x);
        const experts: (Float64Array | undefined)[] = [];
        for (const [expert, id] of op.linears.entries()) {
          const own = 'all' in input ? input.all : input.experts[expert];
          experts.push(own && (await this.#energies(id, own)));
        }
        return { experts };
      }
      case 'attend': {
        const stored = this.#program.ops.find((other) => other.op === 'remember' && other.cache === op.cache);
        const v = op.v ?? (stored?.op === 'remember' ? stored.v : undefined);
        if (v === undefined) return undefined;
        const { heads, kvHeads, valueDim } = op;
        const from = (i: number): number => Math.floor((Math.floor(i / valueDim) * kvHeads) / heads) * valueDim + (i % valueDim);
        return map(await this.of(v), async (moments) => Float64Array.from({ length: heads * valueDim }, (_, i) => moments[from(i)]!));
      }
      case 'activate':
        return map(await this.of(op.x), async (moments) => moments.map((moment) => activated(moment, op.kind)));
      case 'gate': {
        const [gate, x] = [await this.of(op.gate), await this.of(op.x)];
        return join(gate, x, (g, own) => own.map((moment, i) => moment * activated(g[g.length === 1 ? 0 : i]!, op.kind)));
      }
      case 'add': {
        const [a, b] = [await this.of(op.a), await this.of(op.b)];
        // Of a sum with something unknown, such as the embedding, what is known is the best there is.
        if (!a || !b) return a ?? b;
        return join(a, b, (own, other) => own.map((moment, i) => moment + op.factor ** 2 * other[i]!));
      }
      case 'scale':
        return map(await this.of(op.x), async (moments) => moments.map((moment) => moment * op.factor ** 2));
      case 'slice': {
        const part = this.#program.tensors[op.x]!.width / op.groups;
        const from = (i: number): number => Math.floor(i / op.width) * part + op.offset + (i % op.width);
        return map(await this.of(op.x), async (moments) =>
          Float64Array.from({ length: op.groups * op.width }, (_, i) => moments[from(i)]!),
        );
      }
      case 'combine':
        return mixed(await this.of(op.x));
    }
  }

  /** What a linear's outputs are estimated from where nothing is known of its inputs. */
  #equal(id: TensorId): { readonly all: Float64Array } {
    return { all: new Float64Array(this.#program.tensors[id]!.width).fill(1) };
  }

  /** Second moments of the outputs of a linear. */
  async #energies(id: number, moments: Float64Array): Promise<Float64Array> {
    const use = this.#program.linears[id]!;
    const [out, inp] = use.shape;
    const weight = toFloat32(dequantize(await this.#read(use)));
    const bias = use.bias === undefined ? undefined : toFloat32(this.#program.constants[use.bias]!);
    const energies = new Float64Array(out);
    for (let row = 0; row < out; row++) {
      let sum = bias ? bias[row]! ** 2 : 0;
      for (let i = 0, at = row * inp; i < inp; i++, at++) sum += weight[at]! * weight[at]! * moments[i]!;
      energies[row] = sum;
    }
    return energies;
  }
}

async function map(moments: Moments, f: (moments: Float64Array) => Promise<Float64Array>): Promise<Moments> {
  if (!moments) return undefined;
  if ('all' in moments) return { all: await f(moments.all) };
  const experts: (Float64Array | undefined)[] = [];
  for (const own of moments.experts) experts.push(own && (await f(own)));
  return { experts };
}

function join(a: Moments, b: Moments, f: (a: Float64Array, b: Float64Array) => Float64Array): Moments {
  if (!a || !b) return undefined;
  if ('all' in a && 'all' in b) return { all: f(a.all, b.all) };
  const count = 'all' in a ? ('all' in b ? 0 : b.experts.length) : a.experts.length;
  const of = (moments: NonNullable<Moments>, i: number) => ('all' in moments ? moments.all : moments.experts[i]);
  return {
    experts: Array.from({ length: count }, (_, i) => {
      const [own, other] = [of(a, i), of(b, i)];
      return own && other && f(own, other);
    }),
  };
}

/** Rows of all experts together, as if each were chosen as often. */
function mixed(moments: Moments): Moments {
  if (!moments || 'all' in moments) return moments;
  const known = moments.experts.filter((own) => own !== undefined);
  const [first] = known;
  return first && { all: first.map((_, i) => known.reduce((sum, own) => sum + own[i]!, 0) / known.length) };
}

const erf = (x: number): number => {
  // Abramowitz and Stegun 7.1.26, to 1.5e-7: enough for an estimate.
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const y = 1 - ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t * Math.exp(-x * x);
  return x < 0 ? -y : y;
};

const ACTIVATIONS: Readonly<Record<Activation, (x: number) => number>> = {
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu: (x) => (x * (1 + erf(x / Math.SQRT2))) / 2,
  gelu_tanh: (x) => (x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))) / 2,
  quick_gelu: (x) => x / (1 + Math.exp(-1.702 * x)),
  relu: (x) => Math.max(0, x),
  relu2: (x) => Math.max(0, x) ** 2,
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  tanh: Math.tanh,
  identity: (x) => x,
};

/** Points and weights of a normal distribution. */
const POINTS = Array.from({ length: 81 }, (_, i) => (i - 40) / 10);
const MASS = POINTS.map((x) => Math.exp((-x * x) / 2));
const TOTAL = MASS.reduce((sum, mass) => sum + mass, 0);

/** E[f(z)^2] for z normal with that second moment. */
function activated(moment: number, kind: Activation): number {
  const size = Math.sqrt(moment);
  const f = ACTIVATIONS[kind];
  return POINTS.reduce((sum, x, i) => sum + MASS[i]! * f(size * x) ** 2, 0) / TOTAL;
}
