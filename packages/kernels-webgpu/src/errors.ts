// What goes wrong on a GPU, as LowbitErrors that name the adapter and the limit.

import { isLowbitError, LowbitError } from '@lowbit/core';
import type { GpuFeature } from './gpu.ts';

/** Memory that a GPU does not have. */
export function outOfMemory(adapter: string, what: string, bytes: number, cause?: unknown): LowbitError {
  return new LowbitError('ERR_LIMIT', `kernels-webgpu: ${adapter} has no memory for ${what} of ${bytes} bytes`, {
    hint: 'Use fewer bits, a shorter context, fewer sequences, or close other pages and programs that use the GPU.',
    details: { reason: 'OUT_OF_MEMORY', adapter, bytes },
    cause,
  });
}

/** A buffer larger than the device makes or binds at once. */
export function tooLarge(adapter: string, what: string, bytes: number, limit: number): LowbitError {
  return new LowbitError('ERR_LIMIT', `kernels-webgpu: ${what} takes ${bytes} bytes, ${adapter} binds ${limit} at once`, {
    hint: 'Feed long prompts in several steps, ask for fewer rows, or use a shorter context.',
    details: { reason: 'BINDING_LIMIT', adapter, bytes, limit },
  });
}

export function deviceLost(adapter: string, reason: string | undefined, message: string): LowbitError {
  return new LowbitError('ERR_DEVICE', `kernels-webgpu: the device of ${adapter} was lost${message ? `: ${message}` : ''}`, {
    hint: 'Dispose of the backend and open another: what was on the GPU is gone, a new device starts afresh.',
    details: { reason: 'DEVICE_LOST', adapter, cause: reason },
  });
}

/** What WebGPU refuses: a bug of this package, or of a driver. */
export function deviceFault(adapter: string, message: string): LowbitError {
  return new LowbitError('ERR_DEVICE', `kernels-webgpu: ${adapter}: ${message}`, {
    hint: 'Please report what you ran, and on which GPU and browser.',
    details: { reason: 'DEVICE', adapter },
  });
}

export function unavailable(reason: string, message: string, hint: string, cause?: unknown): LowbitError {
  return new LowbitError('ERR_BACKEND_UNAVAILABLE', `kernels-webgpu: ${message}`, { hint, details: { reason }, cause });
}

/** For `probe`: what an error says, without its prefix. */
export function whyNot(error: unknown): { readonly reason: string; readonly hint?: string } {
  const message = error instanceof Error ? error.message : String(error);
  const reason = message.replace(/^kernels-webgpu: /, '');
  return isLowbitError(error) && error.hint ? { reason, hint: error.hint } : { reason };
}

/** Features that the device has but that did not pass the self-test: the backend goes on without them. */
export function refusedFeatures(adapter: string, features: readonly GpuFeature[], cause: unknown): LowbitError {
  const list = features.join(' and ');
  return new LowbitError('ERR_DEVICE', `kernels-webgpu: ${adapter} is used without ${list}: ${whyNot(cause).reason}`, {
    hint: `Results are right, speed may be less. Update the driver or the browser, or pass webgpu({ features: [...] }) without ${list}.`,
    details: { reason: 'FEATURE', adapter, features },
    cause,
  });
}

/** Makes a warning of the process, or of the console where there is none, of the first problem with each message. */
export function warnOnce(): (problem: LowbitError) => void {
  const told = new Set<string>();
  return ({ code, message, hint }) => {
    if (told.has(message)) return;
    told.add(message);
    const text = hint ? `${message}. ${hint}` : message;
    const { process } = globalThis as { process?: { emitWarning?(text: string, options: { type: string; code: string }): void } };
    if (process?.emitWarning) process.emitWarning(text, { type: 'LowbitWarning', code });
    else console.warn(text);
  };
}
