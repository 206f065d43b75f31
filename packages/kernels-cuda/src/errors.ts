// What the addon throws, as LowbitErrors: it names its failures by `code`.

import { type ErrorCode, isLowbitError, LowbitError } from '@lowbit/core';

interface Meaning {
  readonly code: ErrorCode;
  readonly hint?: string;
}

const MEANINGS: Readonly<Record<string, Meaning>> = {
  NO_DRIVER: {
    code: 'ERR_BACKEND_UNAVAILABLE',
    hint: 'Install the NVIDIA driver (no toolkit is needed), or use another backend: cpu() of @lowbit/kernels-cpu.',
  },
  DRIVER_TOO_OLD: { code: 'ERR_BACKEND_UNAVAILABLE', hint: 'Update the NVIDIA driver, or use another backend.' },
  NO_DEVICE: {
    code: 'ERR_BACKEND_UNAVAILABLE',
    hint: 'Check nvidia-smi and CUDA_VISIBLE_DEVICES; in a container, start it with access to the GPU.',
  },
  DEVICE_TOO_OLD: { code: 'ERR_BACKEND_UNAVAILABLE', hint: 'Ampere (2020) and later are supported. Use another backend.' },
  NO_KERNELS: {
    code: 'ERR_BACKEND_UNAVAILABLE',
    hint: 'Build the addon where nvcc is (LOWBIT_NVCC=path node build-native.mjs), or install the package of this platform.',
  },
  OUT_OF_MEMORY: { code: 'ERR_LIMIT', hint: 'Use fewer bits, a shorter context, fewer sequences, or a GPU with more memory.' },
  NOT_INITIALIZED: {
    code: 'ERR_BACKEND_UNAVAILABLE',
    hint: 'A process that was forked from one that uses the GPU cannot use it. Start a new one, as child_process does, or a worker thread.',
  },
  DEVICE_GONE: {
    code: 'ERR_DEVICE',
    hint: "The GPU has failed or was taken away: nvidia-smi and the system's log (Xid) say why. When it is back, a new process can use it.",
  },
  DEVICE_LOST: { code: 'ERR_DEVICE', hint: 'The GPU can be used again in a new process. Please report what you ran: this is a bug.' },
  DEVICE: { code: 'ERR_DEVICE', hint: 'Please report what you ran.' },
  BAD_ARGUMENT: { code: 'ERR_BAD_ARGUMENT' },
};

/** Bytes below which nothing worth the name can be loaded. */
const LEAST_FREE = 64 * 2 ** 20;

/**
 * A LowbitError for what the addon throws; anything else as it is. `opening`: memory that is missing then makes the backend unavailable, it is no limit
 * of what was asked.
 */
export function deviceError(error: unknown, { opening = false }: { readonly opening?: boolean } = {}): unknown {
  // What JavaScript throws may be anything: a signal is aborted with null, say.
  const { code, message } = (error ?? {}) as { readonly code?: string; readonly message?: string };
  const meaning = code === undefined ? undefined : MEANINGS[code];
  if (!meaning || isLowbitError(error)) return error;
  const noMemory = opening && code === 'OUT_OF_MEMORY';
  return new LowbitError(opening ? 'ERR_BACKEND_UNAVAILABLE' : meaning.code, `kernels-cuda: ${message}`, {
    hint: noMemory
      ? 'Another process holds the memory of the GPU (nvidia-smi lists them). End it, or choose another device.'
      : meaning.hint,
    details: { reason: code },
    cause: error,
  });
}

/** Throws ERR_BACKEND_UNAVAILABLE where next to nothing of a device's memory is free. */
export function checkFree({ name, free, total }: { readonly name: string; readonly free: number; readonly total: number }): void {
  if (free >= LEAST_FREE) return;
  throw deviceError(Object.assign(new Error(`${name} has no memory: ${free} of ${total} bytes are free`), { code: 'OUT_OF_MEMORY' }), {
    opening: true,
  });
}

/** `body`, with what the addon throws as LowbitErrors. */
export function native<T>(body: () => T): T {
  try {
    return body();
  } catch (error) {
    throw deviceError(error);
  }
}
