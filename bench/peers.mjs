// Speed against node-llama-cpp (whole models) and onnxruntime-node (products of 4-bit weights) on this machine, in interleaved rounds.
//   node bench/peers.mjs MODEL [--gguf FILE] [--threads 1,2] [--rounds 9] [--precision fast] [--head 8] [--only model|products]
//     [--tests decode,generate,prefill] [--json]
// --clock processor compares processor time, for one thread on a machine that others use, too (what comes before a test is in it, so long ones are better).
// MODEL is a folder of `lowbit quantize` with a llama-like config.json. The peer runs FILE, the same model in GGUF, or else random weights of the same shapes in
// Q4_0. Peers are installed into bench/peers/installed on first use, without their install scripts; nothing in this repository depends on them.
// The table has, for each test, the median of the rounds' ratios (peer's time over ours) with the lowest and highest, for the better number of threads of each.

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { start } from './peers/contestant.mjs';
import { writeGguf } from './peers/gguf.mjs';
import { writeOnnx } from './peers/onnx.mjs';
import { median } from './spread.mjs';

const PEERS = { 'node-llama-cpp': '3.22.1', 'onnxruntime-node': '1.30.0' };

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    gguf: { type: 'string' },
    threads: { type: 'string', default: '1,2' },
    rounds: { type: 'string', default: '9' },
    precision: { type: 'string', default: 'fast' },
    head: { type: 'string', default: '8' },
    only: { type: 'string' },
    tests: { type: 'string', default: 'decode,generate,prefill' },
    clock: { type: 'string', default: 'elapsed' },
    json: { type: 'boolean', default: false },
  },
});
const [folder] = positionals;
const usage =
  'usage: node bench/peers.mjs MODEL [--gguf FILE] [--threads 1,2] [--rounds 9] [--precision fast|exact] [--head BITS] [--only model|products] [--tests LIST]';
if (!folder && values.only !== 'products') throw new Error(usage);
const threads = values.threads.split(',').map(Number);
const rounds = Number(values.rounds);

const installed = fileURLToPath(new URL('peers/installed', import.meta.url));
if (!existsSync(join(installed, 'node_modules', 'onnxruntime-node'))) {
  mkdirSync(installed, { recursive: true });
  writeFileSync(join(installed, 'package.json'), JSON.stringify({ private: true, dependencies: PEERS }));
  const { status } = spawnSync('npm', ['install', '--ignore-scripts', '--no-audit', '--no-fund'], {
    cwd: installed,
    stdio: ['ignore', 2, 2],
  });
  if (status !== 0) throw new Error('the peers could not be installed');
}

const scratch = mkdtempSync(join(tmpdir(), 'lowbit-peers-'));
const rows = [];

/** Interleaved rounds of all contestants; ratios of the better of theirs to the better of ours, round by round. */
async function compare(name, questions, ours, theirs) {
  const all = [...ours, ...theirs];
  for (const [label, question] of Object.entries(questions)) {
    const times = new Map(all.map((contestant) => [contestant, []]));
    for (const contestant of all) await contestant.ask(question); // warms up
    for (let round = 0; round < rounds; round++) {
      for (const contestant of all) times.get(contestant).push(await contestant.ask(question));
    }
    const best = (side) => side.reduce((a, b) => (median(times.get(b)) < median(times.get(a)) ? b : a));
    const [us, them] = [best(ours), best(theirs)];
    const ratios = times.get(us).map((ms, round) => times.get(them)[round] / ms);
    const row = {
      test: `${name} ${label}`,
      ours: `${us.label}: ${median(times.get(us)).toFixed(2)} ms`,
      theirs: `${them.label}: ${median(times.get(them)).toFixed(2)} ms`,
      ratio: Number(median(ratios).toFixed(2)),
      lowest: Number(Math.min(...ratios).toFixed(2)),
      highest: Number(Math.max(...ratios).toFixed(2)),
      all: Object.fromEntries(all.map((contestant) => [contestant.label, Number(median(times.get(contestant)).toFixed(2))])),
    };
    rows.push(row);
    if (values.json) console.log(JSON.stringify(row));
    else
      console.log(
        `${row.test}: ${row.ratio} (${row.lowest} to ${row.highest}); ${row.ours}, ${row.theirs}; medians in ms: ${JSON.stringify(row.all)}`,
      );
  }
}

const labelled = async (label, ...args) => Object.assign(await start(...args, values.clock), { label });

try {
  if (values.only !== 'products') {
    const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'));
    let file = values.gguf;
    if (!file) {
      file = join(scratch, 'random.gguf');
      writeGguf(file, config);
    }
    const ours = [];
    const theirs = [];
    for (const t of threads) {
      ours.push(await labelled(`lowbit ${t}`, 'lowbit.mjs', [folder, t, values.precision, values.head]));
      theirs.push(await labelled(`node-llama-cpp ${t}`, 'llama.mjs', [file, t]));
    }
    const questions = {
      'decode 64': { test: 'decode', count: 64, depth: 16 },
      'generate 64': { test: 'generate', count: 64 },
      'prefill 512': { test: 'prefill', count: 512 },
    };
    const chosen = Object.entries(questions).filter(([, { test }]) => values.tests.split(',').includes(test));
    await compare(folder.split('/').at(-1), Object.fromEntries(chosen), ours, theirs);
    for (const contestant of [...ours, ...theirs]) contestant.end();
  }
  if (values.only !== 'model') {
    const file = join(scratch, 'products.onnx');
    writeOnnx(file, { layers: 16, accuracy: 4 });
    const ours = [];
    const theirs = [];
    for (const t of threads) {
      ours.push(await labelled(`lowbit ${t}`, 'products.mjs', [t, values.precision]));
      theirs.push(await labelled(`onnxruntime-node ${t}`, 'ort.mjs', [file, t]));
    }
    const questions = { 'M=1': { test: 'product', rows: 1 }, 'M=128': { test: 'product', rows: 128 } };
    await compare('16 x 4096 x 4096', questions, ours, theirs);
    for (const contestant of [...ours, ...theirs]) contestant.end();
  }
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
