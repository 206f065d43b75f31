// Time of quantizing one matrix in memory, beside the Python libraries on the same weights, the same number of threads and the same machine.
//   node bench/quantize-peers.mjs --python PYTHON [--sizes 2048,4096] [--threads 1,2] [--rounds 9] [--jobs '[{"axis":1},{"axis":0}]'] [--backend cpu]
// A job is options of hqq(), or {"method":"nf4"} (or fp4) with those of nf4(). --backend cpu: with the routines of @lowbit/kernels-cpu on that many threads,
// which is to be built. PYTHON has torch and hqq, or bitsandbytes. Rounds are interleaved: one run of each side after the other, on a machine that others may use, so ratios of a round are
// what counts. Prints one JSON line a job: medians of seconds per 10^9 weights, wall and processor time, and the median of the rounds' ratios.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { fp4, nf4 } from '../packages/bnb/dist/index.js';
import { createRuntime, createWorkers, float32Tensor, quantize } from '../packages/core/dist/index.js';
import { hqq } from '../packages/hqq/dist/index.js';
import { median } from './spread.mjs';

const { values } = parseArgs({
  options: {
    python: { type: 'string' },
    sizes: { type: 'string', default: '2048,4096' },
    threads: { type: 'string', default: '1,2' },
    rounds: { type: 'string', default: '9' },
    jobs: { type: 'string', default: '[{"axis":1},{"axis":0}]' },
    backend: { type: 'string' },
  },
});
if (!values.python) throw new Error('usage: node bench/quantize-peers.mjs --python PYTHON [options]');

/** Bell-shaped weights, standard deviation 0.02, from a seed. */
function gaussian(count, seed = 1) {
  let state = seed;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return (state >>> 0) / 2 ** 32;
  };
  return Float32Array.from({ length: count }, () => 0.02 * Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
}

const dir = mkdtempSync(join(tmpdir(), 'lowbit-bench-'));
const python = spawn(values.python, [fileURLToPath(new URL('quantize_peers.py', import.meta.url))], { stdio: ['pipe', 'pipe', 'inherit'] });
const lines = createInterface({ input: python.stdout });
const ask = async (request) => {
  python.stdin.write(`${JSON.stringify(request)}\n`);
  return JSON.parse((await once(lines, 'line'))[0]);
};

/** What runs on so many threads: workers, or a runtime with the native backend. */
async function openTeam(threads) {
  if (!values.backend) return { options: { threads: createWorkers({ threads }) } };
  const { cpu } = await import('../packages/kernels-cpu/dist/index.js');
  const runtime = await createRuntime({ backends: [cpu({ threads })] });
  await runtime.backend(values.backend);
  return { options: { runtime } };
}

async function ours(weight, { method = 'hqq', ...options }, team) {
  const [cpu, started] = [process.cpuUsage(), performance.now()];
  await quantize(weight, { hqq, nf4, fp4 }[method](options), team.options);
  const wall = (performance.now() - started) / 1e3;
  const { user, system } = process.cpuUsage(cpu);
  return { wall, cpu: (user + system) / 1e6 };
}

try {
  for (const size of values.sizes.split(',').map(Number)) {
    const numbers = gaussian(size * size);
    const file = join(dir, `${size}.f32`);
    writeFileSync(file, new Uint8Array(numbers.buffer));
    const weight = float32Tensor([size, size], numbers);
    const cases = values.threads.split(',').flatMap((threads) => {
      return JSON.parse(values.jobs).map((job) => ({ threads: Number(threads), job, rounds: [] }));
    });
    const teams = new Map();
    for (const { threads } of cases) if (!teams.has(threads)) teams.set(threads, await openTeam(threads));
    for (let round = -1; round < Number(values.rounds); round++) {
      for (const { threads, job, rounds } of cases) {
        const peer = await ask({ file, size, threads, ...job });
        const own = await ours(weight, job, teams.get(threads));
        if (round >= 0) rounds.push({ peer, own }); // the first is to warm up
      }
    }
    for (const { options } of teams.values()) await (options.runtime ?? options.threads)[Symbol.asyncDispose]();
    for (const { threads, job, rounds } of cases) {
      const per = (side, clock) => Math.round((median(rounds.map((round) => round[side][clock])) / size ** 2) * 1e10) / 10;
      const ratio = (clock) => Math.round(median(rounds.map(({ peer, own }) => peer[clock] / own[clock])) * 100) / 100;
      const seconds = { python: per('peer', 'wall'), ours: per('own', 'wall') };
      const cpuSeconds = { python: per('peer', 'cpu'), ours: per('own', 'cpu') };
      const all = rounds.map(({ peer, own }) => peer.wall / own.wall);
      const spread = [Math.min(...all), Math.max(...all)].map((one) => Math.round(one * 100) / 100);
      const line = {
        size,
        threads,
        ...job,
        rounds: rounds.length,
        seconds,
        ratio: ratio('wall'),
        spread,
        cpuSeconds,
        cpuRatio: ratio('cpu'),
      };
      process.stdout.write(`${JSON.stringify(line)}\n`);
    }
  }
} finally {
  python.stdin.end();
  rmSync(dir, { recursive: true, force: true });
}
