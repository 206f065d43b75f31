// Importance while a model is quantized: the moments of a layer are found when its first linear is, and are gone when its last one is.
//
// The pass that finds moments hands over a layer and waits; whoever quantizes asks for paths. Asking for one of a layer that has not come lets the pass go on.

import { type CallOptions, type Checkpoint, type Importance, LowbitError } from '@lowbit/core';
import { checkCheckpoint, checkLoadingRuntime, checkSampleIds } from '../arguments.ts';
import { tokenIds } from '../model/ids.ts';
import { eachLayerImportance, type LayerMoments, type MomentKinds } from './collect-importance.ts';
import type { CheckpointImportanceOptions } from './importance.ts';
import { checkImportanceMemory, DEFAULT_MEMORY } from './importance-memory.ts';
import { openProgram } from './open-program.ts';

/** Of `layerImportance`. */
export interface LayerImportanceOptions extends Omit<CheckpointImportanceOptions, 'keeper' | 'damped' | 'kind'> {
  /** Second moments per input channel (default), or the whole matrix; or by path, of those that read the same a matrix where one has it. */
  readonly kind?: MomentKinds | undefined;
  /** Changes whenever the numbers could: of the samples, the weights and the backend. */
  readonly identity: string;
  /** Most bytes that moments of a layer may take by count (`importanceMemory`); default 16 GiB. */
  readonly momentMemory?: number | undefined;
}

/** For the `importance` of `quantizeCheckpoint`. Dispose it when that has ended, however it did. */
export interface LayerImportance extends AsyncDisposable {
  readonly identity: string;
  /** What will be asked for, each once. What comes and is not among it is not summed. Throws ERR_LIMIT where a layer's moments take more than `momentMemory`. */
  begin(paths: Iterable<string>): void;
  /**
   * Of a linear; undefined where the model does not run it, or no sample reached it. Who no longer waits for it (`signal`) leaves it to be asked for again. Throws what
   * `checkpointImportance` throws, what `begin` does if that was not called, and ERR_BAD_ARGUMENT for what was asked for before.
   */
  of(path: string, options?: Pick<CallOptions, 'signal'>): Promise<Importance | undefined>;
}

/**
 * What `checkpointImportance` finds, a layer at a time as it is asked for: for matrices, of which those of the whole model take in_features^2 numbers a linear. Of a layer its
 * inputs wait in memory, and matrices are made of them one at a time, as they are asked for (`importanceMemory` counts the bytes). Layers that are asked for out of order wait, too; of a
 * weight that several layers use, the first counts. Throws as `checkpointImportance`.
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
  checkKind(options.kind);
  checkMemory(options.momentMemory);
  const { runtime, ids, kind = 'diagonal', adapters = [], identity, momentMemory = DEFAULT_MEMORY, signal, onProgress } = options;
  const model = await openProgram(checkpoint, adapters, 'what errors cost', signal);
  const samples = ids.map((sample) => tokenIds(sample, model));
  const ended = new AbortController();
  const tokens = samples.reduce((sum, { length }) => sum + length, 0);
  const check: Check = (paths) => checkImportanceMemory(model.program, { tokens, kind, paths, momentMemory });
  const pass: Pass = (wants, take) =>
    eachLayerImportance(
      model.program,
      {
        runtime,
        loadWeight: async (use) => ({ weight: await model.readWeight(use, signal) }),
        ids: samples,
        kind,
        signal: signal ? AbortSignal.any([signal, ended.signal]) : ended.signal,
        onProgress,
        wants,
      },
      take,
    );
  const paths = new Set(model.program.linears.map(({ path }) => path));
  return new Layers(identity, paths, { pass, check, ended });
}

/** Throws ERR_BAD_ARGUMENT: without one, what an interrupted run left would be gone on with by other numbers. */
function checkIdentity(identity: unknown): void {
  if (typeof identity === 'string' && identity !== '') return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `layerImportance: identity cannot be ${JSON.stringify(identity)}`, {
    hint: "Pass what changes with samples, weights and backend, such as { identity: 'my samples, version 1' }.",
    details: { option: 'identity' },
  });
}

function checkKind(kind: unknown): void {
  if (kind === undefined || kind === 'diagonal' || kind === 'matrix' || typeof kind === 'function') return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `layerImportance: kind cannot be ${JSON.stringify(kind)}`, {
    hint: "Pass 'diagonal' or 'matrix', or a function of paths that gives them.",
    details: { option: 'kind' },
  });
}

function checkMemory(bytes: unknown): void {
  if (bytes === undefined || (typeof bytes === 'number' && bytes > 0)) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `layerImportance: momentMemory cannot be ${JSON.stringify(bytes)}`, {
    hint: 'Pass a number of bytes above 0.',
    details: { option: 'momentMemory' },
  });
}

type Pass = (wants: (path: string) => boolean, take: (moments: LayerMoments) => Promise<void>) => Promise<void>;
/** Refuses what takes too much memory. */
type Check = (paths: ReadonlySet<string>) => void;

interface Work {
  readonly pass: Pass;
  readonly check: Check;
  readonly ended: AbortController;
}

class Layers implements LayerImportance {
  readonly identity: string;
  /** Of all linears that the model runs. */
  readonly #paths: ReadonlySet<string>;
  /** Not asked for yet. */
  readonly #left: Set<string>;
  readonly #work: Work;
  readonly #found: LayerMoments = new Map();
  #checked = false;
  #running: Promise<void> | undefined;
  #over = false;
  /** Lets the pass go on. */
  #next = (): void => {};
  /** Tells who waits for a layer that one has come, or that there is none any more. */
  #come = (): void => {};
  #turn: Promise<unknown> = Promise.resolve();

  constructor(identity: string, paths: ReadonlySet<string>, work: Work) {
    this.identity = identity;
    this.#paths = paths;
    this.#left = new Set(paths);
    this.#work = work;
  }

  begin(paths: Iterable<string>): void {
    const wanted = new Set(paths);
    for (const path of this.#paths) if (!wanted.has(path)) this.#left.delete(path);
    this.#check();
  }

  #check(): void {
    if (!this.#checked) this.#work.check(this.#left);
    this.#checked = true;
  }

  /** One at a time: while one waits for its layer, so do the others. */
  of(path: string, { signal }: Pick<CallOptions, 'signal'> = {}): Promise<Importance | undefined> {
    const found = this.#turn.then(() => this.#of(path, signal));
    const ended = (): void => {}; // holds no moments; and who asked sees the failure
    this.#turn = found.then(ended, ended);
    return signal ? unlessAborted(found, signal) : found;
  }

  async #of(path: string, signal: AbortSignal | undefined): Promise<Importance | undefined> {
    signal?.throwIfAborted();
    if (!this.#paths.has(path)) return undefined;
    if (!this.#left.has(path)) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `the importance of ${path} is gone`, {
        hint: 'Ask for each path once, and announce all that you will ask for.',
        details: { path },
      });
    }
    this.#check();
    while (!this.#found.has(path) && !this.#over) {
      await this.#advance();
      signal?.throwIfAborted();
    }
    if (!this.#found.has(path)) await this.#running; // which throws what went wrong
    const moments = await this.#found.get(path)?.();
    this.#work.ended.signal.throwIfAborted();
    signal?.throwIfAborted();
    this.#left.delete(path);
    this.#found.delete(path);
    return moments;
  }

  async #advance(): Promise<void> {
    const come = new Promise<void>((resolve) => {
      this.#come = resolve;
    });
    if (this.#running) this.#next();
    else {
      this.#running = this.#run();
      this.#running.catch(() => {}); // who asks sees what went wrong; nobody may ask any more
    }
    await come;
  }

  async #run(): Promise<void> {
    try {
      const { pass, ended } = this.#work;
      const wants = (path: string): boolean => this.#left.has(path) && !this.#found.has(path);
      await pass(wants, async (moments) => {
        ended.signal.throwIfAborted(); // nobody is left to let the pass go on
        this.#keep(moments, wants);
        const next = new Promise<void>((resolve) => {
          this.#next = resolve;
        });
        this.#come();
        await next;
        ended.signal.throwIfAborted();
      });
    } finally {
      this.#over = true;
      this.#come();
    }
  }

  /** A function of its own: who waits keeps what it has at hand. */
  #keep(moments: LayerMoments, wants: (path: string) => boolean): void {
    for (const [path, of] of moments) if (wants(path)) this.#found.set(path, of);
    moments.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#work.ended.abort();
    this.#next();
    this.#found.clear();
    await this.#running?.catch(() => {}); // it was told to stop, or who asked has seen what went wrong
  }
}

/** Rejects as soon as the signal is aborted. */
async function unlessAborted<T>(found: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  let stop = (): void => {};
  try {
    return await Promise.race([
      found,
      new Promise<never>((_, reject) => {
        stop = () => reject(signal.reason);
        signal.addEventListener('abort', stop, { once: true });
      }),
    ]);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
