// A contestant: a process of its own that answers one JSON line with another, so that rounds of several can be interleaved.

import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

/** Answers `{ test, ... }` lines on stdin with `{ ms, processor }`, by the functions of `tests`: elapsed, and processor time of all threads around it. */
export async function compete(tests) {
  const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
  say({ ready: true });
  for await (const line of createInterface({ input: process.stdin })) {
    const { test, ...options } = JSON.parse(line);
    try {
      const before = process.cpuUsage();
      const ms = await tests[test](options);
      const { user, system } = process.cpuUsage(before);
      say({ ms, processor: (user + system) / 1000 });
    } catch (error) {
      say({ error: String(error) });
    }
  }
  process.exit(0);
}

/** Starts `script` of this folder. `ask` gives milliseconds: elapsed, or of the processor. */
export async function start(script, args, clock = 'elapsed') {
  const path = fileURLToPath(new URL(script, import.meta.url));
  const child = spawn(process.execPath, [path, ...args.map(String)], {
    stdio: ['pipe', 'pipe', 'inherit'],
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
      const { ms, processor } = await next();
      return clock === 'processor' ? processor : ms;
    },
    end: () => child.stdin.end(),
  };
}
