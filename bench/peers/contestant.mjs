// A contestant: a process of its own that answers one JSON line with another, so that rounds of several can be interleaved.

import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

/** Answers `{ test, ... }` lines on stdin with `{ ms }`, by the functions of `tests`. */
export async function compete(tests) {
  const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
  say({ ready: true });
  for await (const line of createInterface({ input: process.stdin })) {
    const { test, ...options } = JSON.parse(line);
    try {
      say({ ms: await tests[test](options) });
    } catch (error) {
      say({ error: String(error) });
    }
  }
  process.exit(0);
}

/** Starts `script` of this folder. `ask` gives milliseconds. */
export async function start(script, args, env = {}) {
  const path = fileURLToPath(new URL(script, import.meta.url));
  const child = spawn(process.execPath, [path, ...args.map(String)], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, ...env },
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => {
    for (;;) {
      const { value, done } = await lines.next();
      if (done) throw new Error(`${script} ${args.join(' ')} ended`);
      if (!value.startsWith('{')) continue; // what a library prints
      const answer = JSON.parse(value);
      if (answer.error) throw new Error(`${script} ${args.join(' ')}: ${answer.error}`);
      return answer;
    }
  };
  await next();
  return {
    async ask(question) {
      child.stdin.write(`${JSON.stringify(question)}\n`);
      return (await next()).ms;
    },
    end: () => child.stdin.end(),
  };
}

export const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];
