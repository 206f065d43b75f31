// What the machine offers for threads, in Node and in browsers.

import { nodeParallelism, nodeThread, nodeThreads } from './threads.node.ts';

/** A Web Worker, as far as it is used here. */
export interface WebWorker {
  postMessage(message: unknown): void;
  terminate(): void;
  addEventListener(type: 'message' | 'error' | 'messageerror', listener: (event: { data?: unknown; message?: string }) => void): void;
}

/** Threads that run at the same time on this machine; 1 where it does not tell. */
export function availableThreads(): number {
  const { navigator } = globalThis as { readonly navigator?: { readonly hardwareConcurrency?: number } };
  return nodeParallelism() ?? navigator?.hardwareConcurrency ?? 1;
}

/** Bytes that other threads see without a copy, where the machine has such memory (browsers: only pages that are cross-origin isolated). */
export function sharedBytes(length: number): Uint8Array {
  return new Uint8Array(typeof SharedArrayBuffer === 'undefined' ? new ArrayBuffer(length) : new SharedArrayBuffer(length));
}

/** A running thread. */
export interface Thread {
  post(message: unknown): void;
  /** A busy thread keeps the process alive, an idle one does not. */
  keepAlive(busy: boolean): void;
  /** Settles when the thread is gone. */
  terminate(): Promise<void>;
}

/** Starts a thread that runs `module`, or takes the one that `spawn` makes. `onLost` is called once if it ends by itself or cannot be talked to. */
export function startThread(
  module: URL,
  spawn: ((module: URL) => WebWorker) | undefined,
  onMessage: (message: unknown) => void,
  onLost: (reason: unknown) => void,
): Thread {
  const node = spawn ? undefined : nodeThreads();
  // Without the flags of this process: some, such as --input-type of `node -e`, are refused for a module in a file.
  if (node) return nodeThread(new node.Worker(module, { execArgv: [] }), onMessage, onLost);
  const { Worker } = globalThis as { readonly Worker?: new (module: URL, options: { readonly type: 'module' }) => WebWorker };
  if (!spawn && !Worker) throw new Error('this JavaScript engine has no worker threads');
  const worker = spawn ? spawn(module) : new Worker!(module, { type: 'module' });
  worker.addEventListener('message', ({ data }) => onMessage(data));
  worker.addEventListener('messageerror', () => onLost(new Error('a message could not be read')));
  worker.addEventListener('error', ({ message }) => onLost(new Error(message ?? 'it could not be loaded')));
  return { post: (message) => worker.postMessage(message), keepAlive() {}, terminate: async () => worker.terminate() };
}
