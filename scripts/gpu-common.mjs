// @ts-check
// What the parts of gpu-check.mjs share.

/**
 * The middle one, of two the higher.
 * @param {readonly number[]} values
 * @returns {number}
 */
export function median(values) {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

/**
 * What comes of an open backend, which is disposed then, also where nothing does.
 * @template T
 * @param {import('@lowbit/core').BackendProvider} provider
 * @param {(backend: import('@lowbit/core').Backend) => Promise<T>} use
 * @returns {Promise<T>}
 */
export async function onBackend(provider, use) {
  const backend = await provider.open();
  try {
    return await use(backend);
  } finally {
    await backend[Symbol.asyncDispose]();
  }
}
