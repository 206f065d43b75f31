// Runs commands of the store tests, in this window or in a worker of it.

import { type Commands, type Reply, runCommand } from './store-commands.ts';

const worker = new Worker('/store-worker.js', { type: 'module' });
const waiting = new Map<number, (reply: Reply) => void>();
worker.addEventListener('message', ({ data: { id, reply } }) => waiting.get(id)?.(reply));
let ids = 0;

Object.assign(globalThis, {
  lowbit: {
    window: (name: keyof Commands, args: readonly unknown[]) => runCommand(name, args),
    worker: (name: keyof Commands, args: readonly unknown[]) =>
      new Promise<Reply>((resolve) => {
        waiting.set(ids, resolve);
        worker.postMessage({ id: ids++, name, args });
      }),
  },
});
