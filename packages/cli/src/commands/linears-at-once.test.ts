import { expect, it } from 'vitest';
import { linearsAtOnce } from './linears-at-once.ts';

const MIB = 2 ** 20;

it.each([
  ['cpu', undefined, { maxMemory: undefined, concurrency: 1 }],
  ['reference', 4096 * MIB, { maxMemory: 4096 * MIB, concurrency: 1 }],
  // Two on a device of its own, each in the 192 MiB that one has unasked; a bound that was given is kept, and is never halved below that.
  ['cuda', undefined, { maxMemory: 384 * MIB, concurrency: 2 }],
  ['webgpu', 384 * MIB, { maxMemory: 384 * MIB, concurrency: 2 }],
  ['cuda', 384 * MIB - 1, { maxMemory: 384 * MIB - 1, concurrency: 1 }],
  ['cuda', 32 * MIB, { maxMemory: 32 * MIB, concurrency: 1 }],
])('%s with %i bytes', (backend, maxMemory, expected) => {
  expect(linearsAtOnce(backend, maxMemory)).toEqual(expected);
});
