import { runCommand } from './store-commands.ts';

self.addEventListener('message', async ({ data: { id, name, args } }) => {
  self.postMessage({ id, reply: await runCommand(name, args) });
});
