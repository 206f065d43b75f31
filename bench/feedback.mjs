// Where the processor's time of --feedback goes.
//   node bench/feedback.mjs MODEL [--layers N] [--bits 3] [--tokens self|random] [--rounds 1] [--beside CHECKOUT]
// Quantizes a model folder with feedback on the native backend into a temporary folder and prints one JSON line a round: seconds of the processor (all threads) in writing
// samples, in each routine, in the rest (the model's layers, moving numbers about, files), and altogether. `--layers`: the first N layers alone; `--tokens random`: 8,192
// random tokens instead of those that the model writes. `--beside`: a built checkout of other code; both take turns, each in a process of its own.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    layers: { type: 'string' },
    bits: { type: 'string', default: '3' },
    tokens: { type: 'string', default: 'self' },
    rounds: { type: 'string', default: '1' },
    beside: { type: 'string' },
    root: { type: 'string' },
  },
});
const [model] = positionals;
if (model === undefined) throw new Error('node bench/feedback.mjs MODEL');
const own = fileURLToPath(new URL('..', import.meta.url));

if (values.root === undefined) {
  const roots = [own, ...(values.beside === undefined ? [] : [resolve(values.beside)])];
  for (let round = 0; round < Number(values.rounds); round++) {
    for (const root of roots) {
      const again = [fileURLToPath(import.meta.url), ...process.argv.slice(2), '--root', root];
      const { status } = spawnSync(process.execPath, again, { stdio: 'inherit' });
      if (status !== 0) process.exit(status ?? 1);
    }
  }
} else {
  await measure(values.root);
}

async function measure(root) {
  const load = (name) => import(pathToFileURL(join(root, 'packages', name, 'dist', 'index.js')).href);
  const [{ createRuntime }, { cpu }, { hqq }, { withFeedback }, { quantizeModel }] = await Promise.all(
    ['core', 'kernels-cpu', 'hqq', 'models', 'cli'].map(load),
  );
  const used = () => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
  };
  const spent = {};
  const runtime = await createRuntime({ backends: [cpu({ threads: 2 })] });
  const counted = (name) => {
    const run = runtime.routine(name);
    if (!run) return undefined;
    return async (...args) => {
      const before = used();
      const found = await run(...args);
      spent[name] = (spent[name] ?? 0) + used() - before;
      return found;
    };
  };
  const watched = new Proxy(runtime, {
    get(target, name) {
      if (name === 'routine') return counted;
      const value = Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
  const dir = mkdtempSync(join(tmpdir(), 'lowbit-bench-'));
  const started = used();
  let written = started;
  await quantizeModel(model, {
    out: join(dir, 'out'),
    quantizer: withFeedback(hqq({ bits: Number(values.bits), solver: 'least-squares' })),
    rules: values.layers === undefined ? [] : [{ match: later(Number(values.layers)), use: 'keep' }],
    importance: values.tokens === 'self' ? 'self' : { ids: Array.from({ length: 32 }, (_, sample) => randomIds(256, sample)) },
    runtime: watched,
    onProgress: ({ phase }) => {
      if (phase === 'generate') written = used();
    },
  });
  const total = used() - started;
  const parts = { samples: written - started, ...spent };
  const rest = total - Object.values(parts).reduce((sum, seconds) => sum + seconds, 0);
  const rounded = Object.fromEntries(
    Object.entries({ ...parts, rest, total }).map(([name, seconds]) => [name, Number(seconds.toFixed(2))]),
  );
  console.log(JSON.stringify({ root: root === own ? 'this' : 'beside', ...rounded }));
  await runtime[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
}

/** Globs of the layers from that one on, of a model of at most 100. */
function later(first) {
  return Array.from({ length: 100 - first }, (_, i) => `model.layers.${first + i}.**`);
}

function randomIds(count, seed) {
  let state = seed + 1;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 1 + (state % 4000);
  });
}
