// Speed of HIGGS on one matrix in memory, and of its nearest-point searches alone.
//   node bench/quantize-higgs.mjs [--size 2048] [--rounds 9] [--dtype bf16|f16|f32] [--jobs quantize,searches]
// `quantize`: 4 bits, p = 2, in ns per weight (which is seconds per 10^9): on 1 and 2 threads, and on 1 with the search that looks at every point.
// `searches`: millions of codes per second of processor time, of normal numbers, of all six grids, fast and with every point.
// Prints one JSON line per job: median and quartiles over the rounds, in which all take turns, and ratios of times of the same round. Processor time is
// what a busy machine leaves comparable: that of all threads together.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { build } from 'vite';
import { castFloat, createWorkers, float32Tensor, quantize, toFloat32 } from '../packages/core/dist/index.js';
import { higgs } from '../packages/higgs/dist/index.js';
import { spread } from './spread.mjs';

const { values } = parseArgs({
  options: {
    size: { type: 'string', default: '2048' },
    rounds: { type: 'string', default: '9' },
    dtype: { type: 'string', default: 'bf16' },
    jobs: { type: 'string', default: 'quantize,searches' },
  },
});
const size = Number(values.size);
const rounds = Number(values.rounds);
const jobs = values.jobs.split(',');

/** Parts of the package that it does not export, from the sources. */
async function internals() {
  const source = fileURLToPath(new URL('../packages/higgs/src/', import.meta.url));
  const dir = mkdtempSync(join(tmpdir(), 'lowbit-bench-'));
  const names = { grid: 'gridOf', nearest: 'bruteForce', 'code-blocks': 'codeBlocks, nearestSearch' };
  const lines = Object.entries(names).map(([file, list]) => `export { ${list} } from ${JSON.stringify(`${source}${file}.ts`)};`);
  writeFileSync(join(dir, 'entry.js'), lines.join('\n'));
  const core = fileURLToPath(new URL('../packages/core/src/index.ts', import.meta.url));
  await build({
    configFile: false,
    logLevel: 'error',
    root: dir,
    resolve: { alias: { '@lowbit/core': core } },
    build: {
      lib: { entry: join(dir, 'entry.js'), formats: ['es'], fileName: () => 'out.mjs' },
      outDir: join(dir, 'out'),
      target: 'node20',
    },
  });
  const made = await import(pathToFileURL(join(dir, 'out', 'out.mjs')).href);
  rmSync(dir, { recursive: true });
  return made;
}
const { bruteForce, codeBlocks, gridOf, nearestSearch } = await internals();

let state = 1;
function uniform() {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return (state + 0.5) / 2 ** 32;
}
const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());

/** Times in ms by name, and those of the processor on all threads, of calls that take turns; the first two rounds warm up. */
async function race(calls) {
  const empty = () => Object.fromEntries(Object.keys(calls).map((name) => [name, []]));
  const [times, processor] = [empty(), empty()];
  for (let round = -2; round < rounds; round++) {
    for (const [name, call] of Object.entries(calls)) {
      const before = process.cpuUsage();
      const started = performance.now();
      await call();
      const elapsed = performance.now() - started;
      const { user, system } = process.cpuUsage(before);
      if (round < 0) continue;
      times[name].push(elapsed);
      processor[name].push((user + system) / 1000);
    }
  }
  return { times, processor };
}

if (jobs.includes('quantize')) {
  const weight = castFloat(
    float32Tensor(
      [size, size],
      Float32Array.from({ length: size * size }, () => 0.02 * normal()),
    ),
    values.dtype,
  );
  const two = createWorkers({ threads: 2 });
  const wide = toFloat32(weight);
  const run = { bits: 4, p: 2, block: 512, group: 256, dtype: 'bf16', inp: size, first: 0, blocks: (size * size) / 512, name: 'weight' };
  const brute = bruteForce(gridOf(4, 2));
  const { times, processor } = await race({
    'quantize, 1 thread': () => quantize(weight, higgs(), { metaDtype: 'bf16' }),
    'quantize, 2 threads': () => quantize(weight, higgs(), { metaDtype: 'bf16', threads: two }),
    'codes and scales alone': () => codeBlocks(wide, run),
    'codes and scales alone, every point': () => codeBlocks(wide, run, brute),
  });
  await two[Symbol.asyncDispose]();
  const perWeight = (list) => spread(list.map((ms) => (ms * 1e6) / size ** 2));
  const overOne = (list, of) => spread(list.map((ms, i) => ms / of['quantize, 1 thread'][i]));
  for (const job of Object.keys(times)) {
    const elapsed = { nsPerWeight: perWeight(times[job]), overOneThread: overOne(times[job], times) };
    const busy = { nsPerWeight: perWeight(processor[job]), overOneThread: overOne(processor[job], processor) };
    console.log(JSON.stringify({ job, dtype: values.dtype, size, rounds, elapsed, processor: busy }));
  }
}

if (jobs.includes('searches')) {
  const count = 1 << 17;
  for (const p of [2, 1]) {
    for (const bits of [4, 3, 2]) {
      const vectors = Float32Array.from({ length: count * p }, normal);
      const codes = new Uint8Array(count);
      const grid = gridOf(bits, p);
      const [fast, brute] = [nearestSearch(grid), bruteForce(grid)];
      const { processor: times } = await race({ fast: () => fast(vectors, count, codes, 0), brute: () => brute(vectors, count, codes, 0) });
      const millions = (list) => spread(list.map((ms) => count / ms / 1000));
      const ratio = spread(times.brute.map((ms, i) => ms / times.fast[i]));
      console.log(JSON.stringify({ job: 'search', bits, p, rounds, fast: millions(times.fast), brute: millions(times.brute), ratio }));
    }
  }
}
