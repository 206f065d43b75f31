// Processor time that a decode step takes in each format on WebGPU, a software adapter for want of a GPU: node bench/webgpu-layers.mjs [--against BUILD]
//   [--hidden 1024] [--inner 2816] [--layers 2] [--rounds 9] [--steps 4] [--keys 64] [--only higgs,int8] [--json]
// It says which kernels do less work on a processor, and nothing of a GPU. `--against`: the index.js of another build of this package (it must lie where it finds
// what it imports, as packages/kernels-webgpu/node_modules/old/index.mjs does); steps of the two are taken in turns, and the ratio is its time over ours of the same round: above 1 is faster than it.
// Needs the built packages, and Chromium's SwiftShader or a GPU.

import { readdirSync, readFileSync } from 'node:fs';
import { cpus, loadavg } from 'node:os';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { ProgramBuilder } from '../packages/models/dist/index.js';
import { sampleWeight } from '../packages/testing/dist/index.js';
import { DAWN } from './software-adapter.mjs';
import { quartiles } from './spread.mjs';

const { values } = parseArgs({
  options: {
    against: { type: 'string' },
    hidden: { type: 'string', default: '1024' },
    inner: { type: 'string', default: '2816' },
    layers: { type: 'string', default: '2' },
    rounds: { type: 'string', default: '9' },
    steps: { type: 'string', default: '4' },
    keys: { type: 'string', default: '64' },
    only: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
});
const [hidden, inner, layers, rounds, steps, keys] = ['hidden', 'inner', 'layers', 'rounds', 'steps', 'keys'].map((name) =>
  Number(values[name]),
);
const options = {
  software: true,
  selfTest: false,
  dawn: DAWN,
};

const pairs = { kind: 'codebook', dim: 2, group: 256, table: 'sample', scale: 'f16', packing: 'u8' };
const FORMATS = {
  affine: { kind: 'affine', levels: 16, group: 64, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' },
  nf4: { kind: 'codebook', bits: 4, dim: 1, group: 64, table: 'nf4', scale: 'f32', packing: 'bnb_nibble' },
  f16: { kind: 'dense', dtype: 'f16' },
  higgs: { ...pairs, bits: 4, rotate: { kind: 'hadamard', block: 512 } },
  int8: { kind: 'int8', threshold: 6 },
  // Without outliers.
  'int8-0': { kind: 'int8', threshold: 0 },
};

/** A Llama without a head, of so many layers of one format. */
function llama(format) {
  const b = new ProgramBuilder({ layers });
  const weights = [];
  const known = new Map();
  const linear = (x, out, inp) => {
    const key = `${out} ${inp}`;
    if (!known.has(key)) known.set(key, sampleWeight(format, [out, inp], 7 + known.size));
    weights.push(known.get(key));
    return b.linear(x, b.addLinear(`${weights.length}`, [out, inp]));
  };
  const data = new Uint8Array(Float32Array.from({ length: hidden }, (_, i) => 1 + (i % 7) / 10).buffer);
  const scale = b.addConstant({ dtype: 'f32', shape: [hidden], data });
  const heads = hidden / 64;
  const rope = b.addRope({ kind: 'fixed', frequencies: Array.from({ length: 32 }, (_, i) => 10000 ** (-i / 32)), scale: 1 });
  let x = b.input('x', { width: hidden });
  const norm = (of) => b.norm(of, { kind: 'rms', eps: 1e-5, weight: scale });
  for (let layer = 0; layer < layers; layer++) {
    b.layer = layer;
    const h = norm(x);
    const q = b.rope(linear(h, hidden, hidden), { heads, dim: 64, style: 'half', rope });
    const k = b.rope(linear(h, hidden / 4, hidden), { heads: heads / 4, dim: 64, style: 'half', rope });
    const v = linear(h, hidden / 4, hidden);
    const cache = b.addCache({ heads: heads / 4, keyDim: 64, valueDim: 64 });
    x = b.add(x, linear(b.attend(q, { k, v, cache, heads, kvHeads: heads / 4, keyDim: 64, scale: 0.125 }), hidden, hidden));
    const m = norm(x);
    x = b.add(x, linear(b.gate(linear(m, inner, hidden), linear(m, inner, hidden), 'silu'), hidden, inner));
  }
  b.output('y', norm(x));
  return { program: b.build(), weights };
}

const builds = [new URL('../packages/kernels-webgpu/dist/index.js', import.meta.url).href];
if (values.against) builds.push(pathToFileURL(values.against).href);
const backends = [];
for (const build of builds) backends.push(await (await import(build)).webgpu(options).open());

/** Milliseconds that SwiftShader's threads have computed for: the thread of JavaScript asks Dawn again and again while it waits. Linux keeps them. */
function processor() {
  const tasks = readdirSync('/proc/self/task').filter((id) => readFileSync(`/proc/self/task/${id}/comm`, 'latin1').startsWith('Thread<'));
  return tasks.reduce((sum, id) => sum + Number(readFileSync(`/proc/self/task/${id}/schedstat`, 'latin1').split(' ')[0]), 0) / 1e6;
}

/** Milliseconds of processor time of a step. */
async function timed({ executable, id }) {
  const step = () => {
    const numbers = Float32Array.from({ length: hidden }, (_, i) => Math.sin(i));
    const inputs = { x: { dtype: 'f32', shape: [1, hidden], data: new Uint8Array(numbers.buffer) } };
    return executable.step([{ id, tokens: new Uint32Array(1), inputs }]);
  };
  const before = processor();
  for (let i = 0; i < steps; i++) await step();
  const after = processor();
  executable.truncate(id, keys);
  return (after - before) / steps;
}

const rows = [];
for (const [name, format] of Object.entries(FORMATS)) {
  if (values.only && !values.only.split(',').includes(name)) continue;
  const { program, weights } = llama(format);
  const contestants = [];
  for (const backend of backends) {
    const linears = [];
    for (const weight of weights) linears.push(await backend.prepare(weight));
    const executable = await backend.compile(program, linears, { contextLength: 4096 });
    const id = executable.open();
    const data = new Uint8Array(4 * hidden * keys);
    await executable.step([{ id, tokens: new Uint32Array(keys), inputs: { x: { dtype: 'f32', shape: [keys, hidden], data } } }]);
    const one = { executable, id, linears };
    await timed(one); // compiles
    contestants.push({ ...one, ms: [] });
  }
  for (let round = 0; round < rounds; round++) {
    for (const one of round % 2 ? contestants.toReversed() : contestants) one.ms.push(await timed(one));
  }
  const [ours, other] = contestants;
  const row = {
    format: name,
    'dispatches a layer': (ours.executable.costs.dispatches - 2) / layers,
    'ms a step': quartiles(ours.ms)[1].toFixed(2),
  };
  if (other) {
    const [quarter, half, most] = quartiles(ours.ms.map((ms, i) => other.ms[i] / ms));
    Object.assign(row, {
      'dispatches of the other': (other.executable.costs.dispatches - 2) / layers,
      'ratio (quartiles)': `${half.toFixed(2)} (${quarter.toFixed(2)} to ${most.toFixed(2)})`,
    });
  }
  rows.push(row);
  if (values.json) console.log(JSON.stringify(row));
  else console.error(row);
  for (const { executable, linears } of contestants) {
    executable[Symbol.dispose]();
    for (const linear of linears) linear[Symbol.dispose]();
  }
}
if (!values.json) {
  const { label, features } = backends[0].device;
  console.log(`${label}, ${features.join(' ')}; ${cpus()[0].model}, load ${loadavg()[0].toFixed(0)}; Node ${process.version}`);
  console.log(`${layers} layers of ${hidden} and ${inner}, ${keys} keys; ${rounds} rounds of ${steps} steps\n`);
  console.table(rows);
}
for (const backend of backends) await backend[Symbol.asyncDispose]();
