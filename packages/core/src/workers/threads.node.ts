// Threads of Node. Core imports no module of Node at run time, so that it loads in browsers: Node hands its built-in modules out.

import type { Worker } from 'node:worker_threads';
import type { Thread } from './host.ts';

/** Node's module of that name; undefined in browsers. */
function builtin<T>(name: string): T | undefined {
  const { process } = globalThis as { readonly process?: { getBuiltinModule?(name: string): object | undefined } };
  return process?.getBuiltinModule?.(name) as T | undefined;
}

export function nodeThreads(): typeof import('node:worker_threads') | undefined {
  return builtin('node:worker_threads');
}

/** Threads that Node advises to use; undefined in browsers. */
export function nodeParallelism(): number | undefined {
  return builtin<typeof import('node:os')>('node:os')?.availableParallelism();
}

/** A worker of Node as a thread. */
export function nodeThread(worker: Worker, onMessage: (message: unknown) => void, onLost: (reason: unknown) => void): Thread {
  worker.on('message', onMessage);
  worker.on('messageerror', onLost);
  worker.on('error', onLost);
  worker.on('exit', (code) => onLost(new Error(`it ended with exit code ${code}`)));
  return {
    post: (message) => worker.postMessage(message),
    keepAlive: (busy) => (busy ? worker.ref() : worker.unref()),
    terminate: async () => void (await worker.terminate()),
  };
}
