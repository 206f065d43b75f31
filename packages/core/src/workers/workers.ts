// All cores for quantizers: threads that run the routines which a method serves from a module of its own.

import { disposedError } from '../disposed.ts';
import { LowbitError } from '../spec/errors.ts';
import type { Quantizer, RoutinePool } from '../spec/quantizer.ts';
import type { WebWorker } from './host.ts';
import { ThreadPool } from './pool.ts';

/** Threads to share between calls. Dispose it to end them. */
export interface Workers {
  /** Most threads for one module. */
  readonly threads: number;
  /** Threads alive now. */
  readonly running: number;
  /** The routines that a module serves with `serveRoutines`. Threads start with the first call. Throws ERR_DISPOSED. */
  pool(module: URL): RoutinePool;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Of `createWorkers`. */
export interface WorkersOptions {
  readonly threads: number;
  /**
   * Makes the worker for a module, where URLs of files do not survive bundling:
   * `() => new Worker(new URL('@lowbit/hqq/worker', import.meta.url), { type: 'module' })`. Default: a thread of Node, or a Web Worker of type module.
   */
  readonly spawn?: ((module: URL) => WebWorker) | undefined;
}

/** More threads than any machine has use for. */
const MOST_THREADS = 1024;

/** Throws ERR_BAD_ARGUMENT unless `threads` is a whole number from 1. */
function checkThreads(threads: unknown): asserts threads is number {
  if (Number.isInteger(threads) && (threads as number) >= 1 && (threads as number) <= MOST_THREADS) return;
  throw new LowbitError(
    'ERR_BAD_ARGUMENT',
    `threads cannot be ${typeof threads === 'string' ? JSON.stringify(threads) : String(threads)}`,
    {
      hint: `Give a whole number from 1 to ${MOST_THREADS}, such as availableThreads(), or what createWorkers made.`,
    },
  );
}

/**
 * Threads for any number of calls. Throws ERR_BAD_ARGUMENT.
 *
 * @example
 * await using workers = createWorkers({ threads: availableThreads() });
 * for (const weight of weights) await quantize(weight, hqq(), { threads: workers });
 */
export function createWorkers({ threads, spawn }: WorkersOptions): Workers {
  checkThreads(threads);
  const pools = new Map<string, ThreadPool>();
  let disposed = false;
  return {
    threads,
    get running() {
      return [...pools.values()].reduce((sum, pool) => sum + pool.running, 0);
    },
    pool(module) {
      if (disposed) throw disposedError('the pool of workers');
      let pool = pools.get(module.href);
      if (!pool) {
        pool = new ThreadPool(module, threads, spawn);
        pools.set(module.href, pool);
      }
      return pool;
    },
    async [Symbol.asyncDispose]() {
      disposed = true;
      await Promise.all([...pools.values()].map((pool) => pool.dispose()));
    },
  };
}

/** Runs `use` with the workers given, or with `threads` of its own that end with it; one thread is the one that calls. */
export async function withWorkers<T>(threads: number | Workers, use: (workers: Workers | undefined) => Promise<T>): Promise<T> {
  if (isWorkers(threads)) return use(threads);
  checkThreads(threads);
  if (threads === 1) return use(undefined);
  const workers = createWorkers({ threads });
  try {
    return await use(workers);
  } finally {
    await workers[Symbol.asyncDispose]();
  }
}

function isWorkers(threads: unknown): threads is Workers {
  return typeof threads === 'object' && threads !== null && 'pool' in threads && 'threads' in threads;
}

/** The pool for a quantizer that can use one. */
export function poolFor(quantizer: Quantizer, workers: Workers | undefined): RoutinePool | undefined {
  return workers && workers.threads > 1 && quantizer.worker ? workers.pool(quantizer.worker) : undefined;
}
