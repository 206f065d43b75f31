// Routines for the tests of worker pools: what goes well, and what goes wrong.

import { LowbitError } from '../spec/errors.ts';
import { serveRoutines } from './serve.ts';

serveRoutines({
  /** The inputs again. */
  echo: async (inputs) => inputs,
  /** As many bytes, each one more; tells of memory that both sides see. */
  increment: async ([input]) => {
    const data = input!.data;
    for (let i = 0; i < data.length; i++) data[i]!++;
    return [{ ...input!, data }];
  },
  /** Answers after `ms`. */
  wait: async (inputs, { ms }) => {
    await new Promise((resolve) => setTimeout(resolve, ms as number));
    return inputs;
  },
  refuse: async () => {
    throw new LowbitError('ERR_LIMIT', 'too much', { hint: 'Take less.', details: { tensor: 'w' } });
  },
  fail: async () => {
    throw new TypeError('a mistake');
  },
  crash: async () => {
    setTimeout(() => {
      throw new Error('outside of any call');
    });
    return new Promise(() => {});
  },
  exit: async () => (globalThis as unknown as { process: { exit(code: number): never } }).process.exit(3),
});
