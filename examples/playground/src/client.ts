// The page's side of its worker: calls with progress and cancelling.

import type { Calls, Failure, FromWorker, Progress, ToWorker } from './protocol.ts';

export interface CallOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: Progress) => void;
}

/** A call that failed. `aborted`: because it was asked to. */
export class CallError extends Error {
  readonly code: string;
  readonly hint: string | undefined;
  readonly reason: string | undefined;
  readonly aborted: boolean;

  constructor({ code, message, hint, reason, aborted }: Failure) {
    super(message);
    this.code = code;
    this.hint = hint;
    this.reason = reason;
    this.aborted = aborted;
  }
}

interface Waiting {
  readonly options: CallOptions;
  resolve(result: unknown): void;
  reject(error: unknown): void;
}

export type Call = <Name extends keyof Calls>(name: Name, args: Calls[Name][0], options?: CallOptions) => Promise<Calls[Name][1]>;

export function connect(worker: Worker): Call {
  const waiting = new Map<number, Waiting>();
  let ids = 0;
  const post = (message: ToWorker): void => worker.postMessage(message);
  worker.addEventListener('message', ({ data }: MessageEvent<FromWorker>) => {
    const call = waiting.get(data.id);
    if (!call) return;
    if ('progress' in data) {
      call.options.onProgress?.(data.progress);
      return;
    }
    waiting.delete(data.id);
    if ('failure' in data) call.reject(new CallError(data.failure));
    else call.resolve(data.result);
  });
  worker.addEventListener('error', (event) => {
    const lost = new CallError({
      code: 'ERR_WORKER',
      message: `the worker stopped: ${event.message || 'it could not be loaded, or ran out of memory'}`,
      hint: 'Reload the page. Saved models and unfinished work are kept.',
      aborted: false,
    });
    for (const call of waiting.values()) call.reject(lost);
    waiting.clear();
  });
  return (name, args, options = {}) =>
    new Promise((resolve, reject) => {
      const id = ids++;
      waiting.set(id, { options, resolve: resolve as (result: unknown) => void, reject });
      options.signal?.addEventListener('abort', () => post({ id, cancel: true }), { once: true });
      post({ id, call: name, args });
    });
}
