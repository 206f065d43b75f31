// Speed of the bitsandbytes quantizers on one matrix in memory: ns per weight (which is seconds per 10^9), one thread.
//   node bench/quantize-bnb.mjs [--size 2048] [--rounds 9] [--dtype f32|bf16|f16] [--jobs nf4,fp4]
// Prints one JSON line per job: median and quartiles over the rounds, in which the jobs take turns.

import { parseArgs } from 'node:util';
import { fp4, int8, nf4 } from '../packages/bnb/dist/index.js';
import { quantize } from '../packages/core/dist/index.js';
import { quartiles } from './spread.mjs';
import { bellShaped } from './weights.mjs';

const { values } = parseArgs({
  options: {
    size: { type: 'string', default: '2048' },
    rounds: { type: 'string', default: '9' },
    dtype: { type: 'string', default: 'f32' },
    jobs: { type: 'string' },
  },
});
const size = Number(values.size);
const rounds = Number(values.rounds);

const weight = bellShaped(size, values.dtype);

const all = { nf4: nf4(), 'nf4-double': nf4({ doubleQuant: true }), fp4: fp4(), int8: int8() };
const jobs = Object.entries(all).filter(([name]) => !values.jobs || values.jobs.split(',').includes(name));
const times = new Map(jobs.map(([name]) => [name, []]));
for (let round = -2; round < rounds; round++) {
  for (const [name, quantizer] of jobs) {
    const started = performance.now();
    await quantize(weight, quantizer);
    if (round >= 0) times.get(name).push(((performance.now() - started) * 1e6) / size ** 2);
  }
}
for (const [job, list] of times) {
  const [from, nsPerWeight, to] = quartiles(list).map((ns) => Number(ns.toFixed(2)));
  console.log(JSON.stringify({ job, dtype: values.dtype, size, rounds, nsPerWeight, quartiles: [from, to] }));
}
