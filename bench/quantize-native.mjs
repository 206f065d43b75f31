// Speed of quantizing one matrix in memory with the routines of the native backend, beside the same quantizer in TypeScript on one thread.
//   node bench/quantize-native.mjs [--size 2048] [--rounds 9] [--dtype f32|bf16|f16] [--threads 1,2] [--isa auto] [--jobs hqq4,nf4] [--plain]
// Prints one JSON line per job and number of threads: ns per weight (which is seconds per 10^9), median and quartiles over the rounds, in which all take
// turns, of elapsed and of processor time (that of all threads together), and the median ratio of TypeScript's time to the native one of the same round.
// `--plain 0` leaves TypeScript out.

import { parseArgs } from 'node:util';
import { fp4, int8, nf4 } from '../packages/bnb/dist/index.js';
import { createRuntime, quantize } from '../packages/core/dist/index.js';
import { higgs } from '../packages/higgs/dist/index.js';
import { hqq } from '../packages/hqq/dist/index.js';
import { cpu } from '../packages/kernels-cpu/dist/index.js';
import { spread } from './spread.mjs';
import { bellShaped } from './weights.mjs';

const { values } = parseArgs({
  options: {
    size: { type: 'string', default: '2048' },
    rounds: { type: 'string', default: '9' },
    dtype: { type: 'string', default: 'f32' },
    threads: { type: 'string', default: '1,2' },
    isa: { type: 'string', default: 'auto' },
    jobs: { type: 'string' },
    plain: { type: 'string', default: '1' },
  },
});
const size = Number(values.size);
const rounds = Number(values.rounds);

const weight = bellShaped(size, values.dtype);

const all = {
  hqq4: hqq({ bits: 4 }),
  'hqq4-axis0': hqq({ bits: 4, axis: 0 }),
  hqq8: hqq({ bits: 8 }),
  hqq3: hqq({ bits: 3 }),
  hqq2: hqq({ bits: 2, groupSize: 16 }),
  'hqq4-ls': hqq({ bits: 4, solver: 'least-squares' }),
  'hqq3-ls': hqq({ bits: 3, solver: 'least-squares' }),
  'hqq2-ls': hqq({ bits: 2, groupSize: 16, solver: 'least-squares' }),
  'hqq8-ls': hqq({ bits: 8, solver: 'least-squares' }),
  nf4: nf4(),
  'nf4-double': nf4({ doubleQuant: true }),
  fp4: fp4(),
  int8: int8(),
  higgs4: higgs(),
  'higgs4-scalar': higgs({ p: 1 }),
};
const jobs = Object.entries(all).filter(([name]) => !values.jobs || values.jobs.split(',').includes(name));
const runtimes = [];
for (const threads of values.threads.split(',').map(Number)) {
  const runtime = await createRuntime({ backends: [cpu({ threads, isa: values.isa })] });
  await runtime.backend('cpu');
  runtimes.push({ threads, runtime });
}

async function timed(quantizer, options) {
  const [before, started] = [process.cpuUsage(), performance.now()];
  await quantize(weight, quantizer, options);
  const elapsed = (performance.now() - started) * 1e6;
  const { user, system } = process.cpuUsage(before);
  return { elapsed: elapsed / size ** 2, processor: ((user + system) * 1e3) / size ** 2 };
}

const runs = jobs.flatMap(([job, quantizer]) => [
  ...(values.plain === '1' ? [{ job, quantizer, way: 'TypeScript', options: {}, times: [] }] : []),
  ...runtimes.map(({ threads, runtime }) => ({ job, quantizer, way: `native, ${threads}`, options: { runtime }, times: [] })),
]);
for (let round = -2; round < rounds; round++) {
  for (const { quantizer, options, times } of runs) {
    const time = await timed(quantizer, options);
    if (round >= 0) times.push(time); // the first two are to warm up
  }
}
for (const { job, way, times } of runs) {
  const line = { job, way, dtype: values.dtype, size, rounds };
  for (const clock of ['elapsed', 'processor']) {
    const plain = runs.find((run) => run.job === job && run.way === 'TypeScript');
    line[clock] = {
      ns: spread(times.map((time) => time[clock])),
      least: Number(Math.min(...times.map((time) => time[clock])).toPrecision(3)),
    };
    if (plain && way !== 'TypeScript') line[clock].ratio = spread(times.map((time, i) => plain.times[i][clock] / time[clock]));
  }
  console.log(JSON.stringify(line));
}
for (const { runtime } of runtimes) await runtime[Symbol.asyncDispose]();
