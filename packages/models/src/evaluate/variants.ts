// The variants of a model on their way through its pieces.

import { type Backend, breather, type CallOptions, elements, type HostTensor, LowbitError } from '@lowbit/core';
import type { LoadedProgram, ProgramPiece } from '@lowbit/program';
import { negativeLogLikelihood, rowDivergence } from './log-softmax.ts';
import { withNoise } from './noise.ts';
import type { SensitivityMetric } from './sensitivity.ts';

/** The model with noise in one linear. */
export interface Variant {
  readonly path: string;
  /** Index of the linear in the piece where it begins. */
  readonly index: number;
  /** Size of the noise, t^2. */
  readonly error: number;
  /** What the noise follows from. */
  readonly key: string;
}

/** Tensors between pieces, by name. */
type Carried = ReadonlyMap<string, HostTensor>;

/** One sequence of a step. */
type Run = readonly [traveller: Traveller, sample: number];

/** Tokens of one step: enough that a backend reads each weight for many rows. */
const STEP_TOKENS = 512;
/** Most bytes of logits of one step, where one sequence does not take more. */
const LOGIT_BYTES = 128 * 2 ** 20;
/** Most sequences of one step. */
export const STEP_SEQUENCES = 64;

/** Runs in groups for one step each. */
function inSteps(runs: readonly Run[], samples: readonly Uint32Array[]): readonly (readonly Run[])[] {
  const groups: Run[][] = [];
  let tokens = 0;
  for (const run of runs) {
    const { length } = samples[run[1]]!;
    const group = groups.at(-1);
    if (group === undefined || tokens + length > STEP_TOKENS || group.length === STEP_SEQUENCES) {
      groups.push([run]);
      tokens = length;
    } else {
      group.push(run);
      tokens += length;
    }
  }
  return groups;
}

/** A copy, so that the step's whole output is not held by what is carried on. */
function rowsOf({ dtype, shape, data }: HostTensor, from: number, to: number): HostTensor {
  const bytes = data.byteLength / shape[0]!;
  return { dtype, shape: [to - from, shape[1]!], data: data.slice(from * bytes, to * bytes) };
}

/** One version of the model under way: what it carries for each sample, and the sum of its losses. */
interface Traveller {
  /** Undefined for the unchanged model. */
  readonly variant?: Variant;
  readonly carried: Carried[];
  sum: number;
}

export interface CarrierOptions extends CallOptions {
  readonly samples: readonly Uint32Array[];
  readonly metric: SensitivityMetric;
  readonly vocab: number;
  /** Tokens of all runs together, for progress. */
  readonly total: number;
}

export class Carrier {
  readonly #breathe = breather();
  readonly #options: CarrierOptions;
  readonly #samples: readonly number[];
  /** The unchanged model. */
  readonly #plain: Traveller;
  readonly #variants: Traveller[] = [];
  #done = 0;

  constructor(options: CarrierOptions) {
    this.#options = options;
    this.#samples = [...options.samples.keys()];
    this.#plain = { carried: options.samples.map(() => new Map()), sum: 0 };
  }

  /** Takes everything through a piece: those under way, those that begin in it, and the unchanged model. `later`: names that pieces behind it take. */
  async pass(
    piece: ProgramPiece,
    loaded: LoadedProgram,
    backend: Backend,
    starts: readonly Variant[],
    later: ReadonlySet<string>,
  ): Promise<void> {
    const underway = this.#variants.slice();
    const started = starts.map((variant): Traveller => ({ variant, carried: this.#plain.carried.slice(), sum: 0 }));
    this.#variants.push(...started);
    const last = piece.program.outputs.logits !== undefined;
    const references = last ? await this.#compare(piece, loaded, underway, started.length > 0) : [];
    if (!last) await this.#through(piece, loaded, [this.#plain, ...underway], later);
    for (const traveller of started) {
      await this.#withNoise(traveller.variant!, piece, loaded, backend, async () => {
        if (!last) await this.#through(piece, loaded, [traveller], later);
        else for (const sample of this.#samples) await this.#score(piece, loaded, [traveller], sample, references[sample]!);
      });
    }
  }

  /** Takes some through a piece that others follow. What was carried is replaced at once, so that no more than one step is held twice. */
  async #through(piece: ProgramPiece, loaded: LoadedProgram, travellers: readonly Traveller[], later: ReadonlySet<string>): Promise<void> {
    const runs = travellers.flatMap((traveller) => this.#samples.map((sample): Run => [traveller, sample]));
    for (const group of inSteps(runs, this.#options.samples)) {
      const outputs = await this.#step(piece, loaded, group);
      for (const [i, [traveller, sample]] of group.entries()) {
        const next = [...traveller.carried[sample]!, ...piece.gives.map((name) => [name, outputs[i]![name]!] as const)];
        traveller.carried[sample] = new Map(next.filter(([name]) => later.has(name)));
      }
    }
  }

  /**
   * The last piece: logits of the unchanged model, and the losses of others against them, a sample at a time. Gives back the logits of all samples if
   * they are to be kept.
   */
  async #compare(piece: ProgramPiece, loaded: LoadedProgram, travellers: readonly Traveller[], keep: boolean): Promise<Float32Array[]> {
    const references: Float32Array[] = [];
    for (const sample of this.#samples) {
      const reference = (await this.#logits(piece, loaded, [[this.#plain, sample]]))[0]!;
      this.#plain.sum += this.#nllOf(reference, sample, 'the model');
      if (keep) references[sample] = reference;
      const size = this.#fitting(sample);
      for (let at = 0; at < travellers.length; at += size) {
        await this.#score(piece, loaded, travellers.slice(at, at + size), sample, reference);
      }
    }
    return references;
  }

  async #score(
    piece: ProgramPiece,
    loaded: LoadedProgram,
    travellers: readonly Traveller[],
    sample: number,
    reference: Float32Array,
  ): Promise<void> {
    const runs = travellers.map((traveller): Run => [traveller, sample]);
    const logits = await this.#logits(piece, loaded, runs);
    for (const [i, traveller] of travellers.entries()) {
      traveller.sum += this.#loss(logits[i]!, reference, sample, traveller.variant!.path);
    }
  }

  /** How many sequences of that length one step takes in the last piece: bounds logits. */
  #fitting(sample: number): number {
    const { samples, vocab } = this.#options;
    return Math.min(STEP_SEQUENCES, Math.max(1, Math.floor(Math.min(STEP_TOKENS, LOGIT_BYTES / (4 * vocab)) / samples[sample]!.length)));
  }

  async #logits(piece: ProgramPiece, loaded: LoadedProgram, runs: readonly Run[]): Promise<readonly Float32Array[]> {
    const outputs = await this.#step(piece, loaded, runs);
    return outputs.map(({ logits }) => elements({ dtype: 'f32', data: logits!.data }));
  }

  /** Mean loss of every variant. */
  losses(): readonly { readonly path: string; readonly error: number; readonly loss: number }[] {
    const { samples, metric } = this.#options;
    const tokens = samples.reduce((sum, { length }) => sum + (metric === 'kl' ? length : length - 1), 0);
    const base = Math.exp(this.#plain.sum / tokens);
    return this.#variants.map(({ variant, sum }) => ({
      path: variant!.path,
      error: variant!.error,
      loss: metric === 'kl' ? sum / tokens : Math.exp(sum / tokens) - base,
    }));
  }

  /** One step of several sequences; the outputs of each. */
  async #step(piece: ProgramPiece, loaded: LoadedProgram, runs: readonly Run[]): Promise<readonly Readonly<Record<string, HostTensor>>[]> {
    const { samples, signal, onProgress, total } = this.#options;
    const ids = runs.map(() => loaded.open());
    let outputs: Readonly<Record<string, HostTensor>>;
    try {
      const batch = runs.map(([{ carried }, sample], i) => {
        const tokens = samples[sample]!;
        const inputs = Object.fromEntries(piece.takes.map((name) => [name, carried[sample]!.get(name)!]));
        return { id: ids[i]!, tokens, inputs, wanted: Uint32Array.from(tokens.keys()) };
      });
      outputs = await loaded.step(batch, { signal });
      await this.#breathe(); // losses are computed between steps
      signal?.throwIfAborted();
    } finally {
      for (const id of ids) loaded.close(id);
    }
    let row = 0;
    const parts = runs.map(([, sample]) => {
      const [from, to] = [row, row + samples[sample]!.length];
      row = to;
      return Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, rowsOf(tensor, from, to)]));
    });
    this.#done += row;
    onProgress?.({ phase: 'sensitivity', done: this.#done, total, unit: 'tokens' });
    return parts;
  }

  /** Runs `body` while the variant's linear has noise, and puts the linear back. */
  async #withNoise(
    { index, error, key }: Variant,
    piece: ProgramPiece,
    loaded: LoadedProgram,
    backend: Backend,
    body: () => Promise<void>,
  ): Promise<void> {
    const { use, shape, bias } = piece.program.linears[index]!;
    const weight = withNoise(await loaded.linears[index]!.dequantize(), error, key);
    const noisy = await backend.prepare(
      { format: { kind: 'dense', dtype: 'f32' }, shape, parts: { weight } },
      { use, bias: bias === undefined ? undefined : piece.program.constants[bias], signal: this.#options.signal },
    );
    let plain = noisy;
    try {
      plain = await loaded.replace(index, noisy);
      await body();
      await loaded.replace(index, plain); // gives back the noisy one, disposed below
      plain = noisy;
    } finally {
      plain[Symbol.dispose]();
    }
  }

  /** Of the rows of one sample: summed divergence, or summed negative log-likelihood. */
  #loss(logits: Float32Array, reference: Float32Array, sample: number, path: string): number {
    const { metric, vocab, samples } = this.#options;
    if (metric === 'perplexity') return this.#nllOf(logits, sample, `the model with noise in ${path}`);
    let sum = 0;
    for (let row = 0; row < samples[sample]!.length; row++) {
      const [from, to] = [row * vocab, (row + 1) * vocab];
      sum += finite(rowDivergence(reference.subarray(from, to), logits.subarray(from, to)), `the model with noise in ${path}`, sample, row);
    }
    return sum;
  }

  #nllOf(logits: Float32Array, sample: number, who: string): number {
    const { vocab, samples } = this.#options;
    const tokens = samples[sample]!;
    let sum = 0;
    for (let row = 0; row + 1 < tokens.length; row++) {
      sum += finite(negativeLogLikelihood(logits.subarray(row * vocab, (row + 1) * vocab), tokens[row + 1]!), who, sample, row);
    }
    return sum;
  }
}

function finite(value: number, who: string, sample: number, position: number): number {
  if (Number.isFinite(value)) return value;
  throw new LowbitError('ERR_NON_FINITE', `the logits of ${who} after position ${position} of sample ${sample} are not finite`, {
    hint: 'The weights may be damaged.',
    details: { sample, position },
  });
}
