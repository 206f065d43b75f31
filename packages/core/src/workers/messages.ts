// What a thread that calls routines and the threads that serve them say to each other.

import { isLowbitError, LowbitError } from '../spec/errors.ts';
import type { HostTensor, JsonObject } from '../spec/tensor.ts';

export interface Call {
  readonly id: number;
  readonly routine: string;
  readonly inputs: readonly HostTensor[];
  readonly params: JsonObject;
}

export type Answer = { readonly id: number; readonly outputs: readonly HostTensor[] } | { readonly id: number; readonly failure: Failure };

/** An error as data: classes do not survive the way between threads. */
export interface Failure {
  readonly code?: string;
  readonly message: string;
  readonly hint?: string | undefined;
  readonly details?: Readonly<Record<string, unknown>>;
  readonly stack?: string | undefined;
}

export function toFailure(error: unknown): Failure {
  if (isLowbitError(error)) {
    const { code, message, hint, stack, details } = error;
    return { code, message, hint, stack, details: JSON.parse(JSON.stringify(details)) };
  }
  return error instanceof Error ? { message: error.message, stack: error.stack } : { message: String(error) };
}

/** The error again; one that nobody foresaw becomes ERR_WORKER and keeps its stack as the cause. */
export function fromFailure(routine: string, { code, message, hint, details = {}, stack }: Failure): LowbitError {
  if (code !== undefined) return new LowbitError(code, message, { hint, details });
  const cause = Object.assign(new Error(message), stack === undefined ? {} : { stack });
  return new LowbitError('ERR_WORKER', `${routine} failed in a worker: ${message}`, { cause, details: { routine } });
}

/** Tensors to post: bytes that are shared go as they are, of others exactly those of the tensor, never the whole buffer behind a view. */
export function postable(tensors: readonly HostTensor[]): HostTensor[] {
  return tensors.map((tensor) => {
    const { data } = tensor;
    const whole = data.byteLength === data.buffer.byteLength;
    return whole || isShared(data) ? tensor : { ...tensor, data: new Uint8Array(data) };
  });
}

export function isShared(data: Uint8Array): boolean {
  return typeof SharedArrayBuffer !== 'undefined' && data.buffer instanceof SharedArrayBuffer;
}
