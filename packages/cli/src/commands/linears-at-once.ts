// How many linears a backend quantizes at a time, and in how much memory.

import { DEFAULT_MAX_MEMORY } from '@lowbit/hub';

/**
 * A device of its own brings the next linear while one comes to its end; processors are busy with one. Each of two has at least what one alone has unasked: with
 * less, large weights would be read again for every pass.
 */
export function linearsAtOnce(
  backend: string,
  maxMemory: number | undefined,
): { readonly maxMemory: number | undefined; readonly concurrency: number } {
  const two = maxMemory ?? 2 * DEFAULT_MAX_MEMORY;
  const alone = backend === 'cpu' || backend === 'reference' || two < 2 * DEFAULT_MAX_MEMORY;
  return alone ? { maxMemory, concurrency: 1 } : { maxMemory: two, concurrency: 2 };
}
