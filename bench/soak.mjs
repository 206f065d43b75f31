// Does memory stay flat? Loads a model on the native backend, generates, and disposes it, round after round: without the packed cache, read from it, mapped.
//   node bench/soak.mjs MODEL [--rounds 200] [--tokens 4]
// Prints resident memory after the first tenth of the rounds and at the end, and the largest between; exits 1 if it grew by more than 5 % and 32 MiB.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { createRuntime } from '../packages/core/dist/index.js';
import { openCheckpoint } from '../packages/hub/dist/index.js';
import { cpu } from '../packages/kernels-cpu/dist/index.js';
import { loadModel } from '../packages/models/dist/index.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { rounds: { type: 'string', default: '200' }, tokens: { type: 'string', default: '4' } },
});
const [folder] = positionals;
if (!folder) throw new Error('usage: node bench/soak.mjs MODEL [--rounds N] [--tokens N]');
const rounds = Number(values.rounds);
const dir = mkdtempSync(join(tmpdir(), 'lowbit-soak-'));
const caches = [false, { dir, how: 'read' }, { dir, how: 'map' }];
const MiB = 2 ** 20;

/** The smallest of three: garbage that is not collected yet is not what is asked for. */
async function resident() {
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 3; i++) {
    globalThis.gc?.();
    await new Promise((resolve) => setTimeout(resolve, 20));
    least = Math.min(least, process.memoryUsage.rss());
  }
  return least;
}

let start = 0;
let most = 0;
try {
  for (let round = 0; round < rounds; round++) {
    const runtime = await createRuntime({ backends: [cpu({ cache: caches[round % caches.length] })] });
    const checkpoint = await openCheckpoint(folder);
    const model = await loadModel(checkpoint, { runtime });
    await model.generate({ prompt: 'It was a fine morning, and', maxTokens: Number(values.tokens), temperature: 0 });
    await model[Symbol.asyncDispose]();
    await checkpoint[Symbol.asyncDispose]();
    const backend = await runtime.backend();
    if (backend.allocated() !== 0) throw new Error(`round ${round}: ${backend.allocated()} bytes are still allocated`);
    await runtime[Symbol.asyncDispose]();
    if (round + 1 === Math.ceil(rounds / 10)) start = await resident();
    if (round + 1 > Math.ceil(rounds / 10)) most = Math.max(most, process.memoryUsage.rss());
  }
} finally {
  rmSync(dir, { recursive: true, force: true });
}
const end = await resident();
console.log(JSON.stringify({ rounds, startMiB: Math.round(start / MiB), mostMiB: Math.round(most / MiB), endMiB: Math.round(end / MiB) }));
if (end - start > Math.max(0.05 * start, 32 * MiB)) process.exitCode = 1;
