// How long a model takes from its open folder to its first token on the native backend: without the packed cache, while it is written, mapped, and read.
//   node bench/load.mjs MODEL [--rounds 9] [--threads N]
// Interleaved rounds; prints medians (and the shortest) in ms of `loadProgram` and of the first token after it, and the processor time of the load.
// The checkpoint is open and its tokenizer is not counted: those cost the same each time.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { createRuntime } from '../packages/core/dist/index.js';
import { openCheckpoint } from '../packages/hub/dist/index.js';
import { cpu } from '../packages/kernels-cpu/dist/index.js';
import { loadModel, loadProgram } from '../packages/models/dist/index.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { rounds: { type: 'string', default: '9' }, threads: { type: 'string' } },
});
const [folder] = positionals;
if (!folder) throw new Error('usage: node bench/load.mjs MODEL [--rounds N] [--threads N]');
const threads = values.threads === undefined ? {} : { threads: Number(values.threads) };
const dir = mkdtempSync(join(tmpdir(), 'lowbit-load-'));
const ways = { 'no cache': () => false, cold: () => ({ dir }), mapped: () => ({ dir, how: 'map' }), read: () => ({ dir, how: 'read' }) };
const results = Object.fromEntries(Object.keys(ways).map((way) => [way, []]));

async function once(way) {
  if (way === 'cold') rmSync(dir, { recursive: true, force: true });
  const runtime = await createRuntime({ backends: [cpu({ ...threads, cache: ways[way]() })] });
  const spent = {};
  runtime.load = async (...args) => {
    delete runtime.load; // what follows is the load itself
    const [started, before] = [performance.now(), process.cpuUsage()];
    const loaded = await loadProgram(runtime, ...args);
    const { user, system } = process.cpuUsage(before);
    Object.assign(spent, { load: performance.now() - started, processor: (user + system) / 1000 });
    return loaded;
  };
  const model = await loadModel(checkpoint, { runtime });
  const started = performance.now();
  for await (const _ of model.stream({ prompt: 'The capital of France is', maxTokens: 1, temperature: 0 })) {
    spent.first ??= performance.now() - started;
  }
  await model[Symbol.asyncDispose]();
  await runtime[Symbol.asyncDispose]();
  return { ...spent, total: spent.load + spent.first };
}

const checkpoint = await openCheckpoint(folder);
try {
  for (let round = 0; round < Number(values.rounds); round++) for (const way of Object.keys(ways)) results[way].push(await once(way));
} finally {
  await checkpoint[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
}
for (const [way, rows] of Object.entries(results)) {
  const text = (name) => {
    const list = rows.map((row) => row[name]).sort((a, b) => a - b);
    return `${name} ${list[list.length >> 1].toFixed(0)} (${list[0].toFixed(0)})`;
  };
  console.log(`${way.padEnd(8)}  ${['load', 'processor', 'first', 'total'].map(text).join('  ')}`);
}
