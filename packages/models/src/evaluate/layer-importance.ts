// Importance while a model is quantized: the moments of a layer are found when its first linear is, and are gone when its last one is.
//
// The pass that finds moments hands over a layer and waits; whoever quantizes asks for paths. Asking for one of a layer that has not come lets the pass go on.

import { type Checkpoint, type Importance, LowbitError } from '@lowbit/core';
import { checkCheckpoint, checkLoadingRuntime, checkSampleIds } from '../arguments.ts';
import { tokenIds } from '../model/ids.ts';
import { eachLayerImportance, type LayerMoments } from './collect-importance.ts';
import type { CheckpointImportanceOptions } from './importance.ts';
import { openProgram } from './open-program.ts';

/** Of `layerImportance`. */
export interface LayerImportanceOptions extends Omit<CheckpointImportanceOptions, 'keeper' | 'damped'> {
  /** Changes whenever the numbers could: of the samples, the weights and the backend. */
  readonly identity: string;
}

/** For the `importance` of `quantizeCheckpoint`. Dispose it when that has ended, however it did. */
export interface LayerImportance extends AsyncDisposable {
  readonly identity: string;
  /** What will be asked for, each once. What comes and is not among it is not kept. */
  begin(paths: Iterable<string>): void;
  /** Of a linear; undefined where the model does not run it, or no sample reached it. Throws what `checkpointImportance` throws, and ERR_BAD_ARGUMENT for what was asked for before. */
  of(path: string): Promise<Importance | undefined>;
}

/**
 * What `checkpointImportance` finds, a layer at a time as it is asked for: for matrices, of which those of the whole model take in_features^2 numbers a linear. Layers that are asked for out of
 * order wait in memory; of a weight that several layers use, the first counts. Throws as `checkpointImportance`.
 *
 * @example
 * await using importance = await layerImportance(checkpoint, { runtime, ids, kind: 'matrix', identity: 'my samples' });
 * await quantizeCheckpoint(checkpoint, { out, adapters: [llama], quantizer: withFeedback(hqq({ bits: 3, solver: 'least-squares' })), importance });
 */
export async function layerImportance(checkpoint: Checkpoint, options: LayerImportanceOptions): Promise<LayerImportance> {
  checkCheckpoint('layerImportance', checkpoint);
  checkLoadingRuntime('layerImportance', options?.runtime);
  checkSampleIds('layerImportance', options.ids);
  checkIdentity(options.identity);
  const { runtime, ids, kind = 'diagonal', adapters = [], identity, signal, onProgress } = options;
  const model = await openProgram(checkpoint, adapters, 'what errors cost', signal);
  const samples = ids.map((sample) => tokenIds(sample, model));
  const ended = new AbortController();
  const pass: Pass = (take) =>
    eachLayerImportance(
      model.program,
      {
        runtime,
        loadWeight: async (use) => ({ weight: await model.readWeight(use, signal) }),
        ids: samples,
        kind,
        signal: signal ? AbortSignal.any([signal, ended.signal]) : ended.signal,
        onProgress,
      },
      take,
    );
  const paths = new Set(model.program.linears.map(({ path }) => path));
  return new Layers(identity, paths, pass, ended);
}

/** Throws ERR_BAD_ARGUMENT: without one, what an interrupted run left would be gone on with by other numbers. */
function checkIdentity(identity: unknown): void {
  if (typeof identity === 'string' && identity !== '') return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `layerImportance: identity cannot be ${JSON.stringify(identity)}`, {
    hint: "Pass what changes with samples, weights and backend, such as { identity: 'my samples, version 1' }.",
    details: { option: 'identity' },
  });
}

type Pass = (take: (moments: LayerMoments) => Promise<void>) => Promise<void>;

class Layers implements LayerImportance {
  readonly identity: string;
  /** Of all linears that the model runs. */
  readonly #paths: ReadonlySet<string>;
  /** Not asked for yet. */
  readonly #left: Set<string>;
  readonly #pass: Pass;
  readonly #ended: AbortController;
  readonly #found = new Map<string, Importance | undefined>();
  #running: Promise<void> | undefined;
  #over = false;
  /** Lets the pass go on. */
  #next = (): void => {};
  /** Tells who waits for a layer that one has come, or that there is none any more. */
  #come = (): void => {};
  #turn: Promise<unknown> = Promise.resolve();

  constructor(identity: string, paths: ReadonlySet<string>, pass: Pass, ended: AbortController) {
    this.identity = identity;
    this.#paths = paths;
    this.#left = new Set(paths);
    this.#pass = pass;
    this.#ended = ended;
  }

  begin(paths: Iterable<string>): void {
    const wanted = new Set(paths);
    for (const path of this.#paths) if (!wanted.has(path)) this.#left.delete(path);
  }

  /** One at a time: while one waits for its layer, so do the others. */
  of(path: string): Promise<Importance | undefined> {
    const found = this.#turn.then(() => this.#of(path));
    this.#turn = found.catch(() => {}); // who asked sees the failure
    return found;
  }

  async #of(path: string): Promise<Importance | undefined> {
    if (!this.#paths.has(path)) return undefined;
    if (!this.#left.has(path)) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `the importance of ${path} is gone`, {
        hint: 'Ask for each path once, and announce all that you will ask for.',
        details: { path },
      });
    }
    while (!this.#found.has(path) && !this.#over) await this.#advance();
    if (!this.#found.has(path)) await this.#running; // which throws what went wrong
    const moments = this.#found.get(path);
    this.#left.delete(path);
    this.#found.delete(path);
    return moments;
  }

  async #advance(): Promise<void> {
    const come = new Promise<void>((resolve) => {
      this.#come = resolve;
    });
    if (this.#running) this.#next();
    else this.#running = this.#run();
    await come;
  }

  async #run(): Promise<void> {
    try {
      await this.#pass(async (moments) => {
        this.#ended.signal.throwIfAborted(); // nobody is left to let the pass go on
        for (const [path, value] of moments) if (this.#left.has(path) && !this.#found.has(path)) this.#found.set(path, value);
        const next = new Promise<void>((resolve) => {
          this.#next = resolve;
        });
        this.#come();
        await next;
        this.#ended.signal.throwIfAborted();
      });
    } finally {
      this.#over = true;
      this.#come();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort();
    this.#next();
    this.#found.clear();
    await this.#running?.catch(() => {}); // it was told to stop, or who asked has seen what went wrong
  }
}
