// Decode speed of a model folder in a backend, against the machine's own limit in the same run.
//   node bench/decode.mjs MODEL [--tokens 8] [--rounds 9] [--backend reference|cpu] [--threads N] [--precision exact|fast]
// Each round times `tokens` greedy decode steps, then the limit: a dot product of two float32 arrays in the first-level cache, four accumulators,
// in plain JavaScript. Prints medians: tokens/s, weights/s, and weights/s as a share of the limit's multiply-adds/s.

import { parseArgs } from 'node:util';
import { createRuntime, elementCount, referenceBackend } from '../packages/core/dist/index.js';
import { openCheckpoint } from '../packages/hub/dist/index.js';
import { cpu } from '../packages/kernels-cpu/dist/index.js';
import { llama, loadModel } from '../packages/models/dist/index.js';
import { median } from './spread.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    tokens: { type: 'string', default: '8' },
    rounds: { type: 'string', default: '9' },
    backend: { type: 'string', default: 'reference' },
    threads: { type: 'string' },
    precision: { type: 'string', default: 'exact' },
  },
});
const [folder] = positionals;
if (!folder) throw new Error('usage: node bench/decode.mjs MODEL [--tokens N] [--rounds N] [--backend reference|cpu]');
const tokens = Number(values.tokens);
const rounds = Number(values.rounds);

const threads = values.threads === undefined ? {} : { threads: Number(values.threads) };
const provider = values.backend === 'cpu' ? cpu({ ...threads, precision: values.precision }) : referenceBackend();
const runtime = await createRuntime({ backends: [provider] });
const checkpoint = await openCheckpoint(folder);
const model = await loadModel(checkpoint, { runtime });
const sites = llama.linears(checkpoint.config, checkpoint.source.entries);
let weights = sites.reduce((sum, { shape }) => sum + elementCount(shape), 0);
if (!sites.some(({ path }) => path === 'lm_head'))
  weights += elementCount(checkpoint.source.entries.get('model.embed_tokens.weight').shape);

const a = Float32Array.from({ length: 2048 }, (_, i) => Math.sin(i));
const b = Float32Array.from({ length: 2048 }, (_, i) => Math.cos(i));
function dots(times) {
  let total = 0;
  for (let t = 0; t < times; t++) {
    let [s0, s1, s2, s3] = [0, 0, 0, 0];
    for (let i = 0; i < 2048; i += 4) {
      s0 += a[i] * b[i];
      s1 += a[i + 1] * b[i + 1];
      s2 += a[i + 2] * b[i + 2];
      s3 += a[i + 3] * b[i + 3];
    }
    total += s0 + s1 + s2 + s3;
  }
  return total;
}
const seconds = async (work) => {
  const started = performance.now();
  await work();
  return (performance.now() - started) / 1000;
};

const ids = Array.from({ length: 16 }, (_, i) => 100 + i);
dots(2000);
await model.generate({ ids, maxTokens: 4, temperature: 0, ignoreEos: true });
const results = [];
for (let round = 0; round < rounds; round++) {
  const { timings } = await model.generate({ ids, maxTokens: tokens + 1, temperature: 0, ignoreEos: true });
  const perToken = timings.decodeMs / 1000 / tokens;
  const limit = (2048 * 20000) / (await seconds(() => dots(20000)));
  results.push({ tokensPerSecond: 1 / perToken, weightsPerSecond: weights / perToken, limit, share: weights / perToken / limit });
}
const of = (key) => median(results.map((result) => result[key]));
console.log(
  JSON.stringify({
    model: folder.split('/').at(-1),
    format: checkpoint.layout ?? 'dense',
    backend: (await provider.probe()).detail,
    tokensPerSecond: Number(of('tokensPerSecond').toFixed(2)),
    megaWeightsPerSecond: Math.round(of('weightsPerSecond') / 1e6),
    limitMegaMacsPerSecond: Math.round(of('limit') / 1e6),
    shareOfLimit: Number(of('share').toFixed(3)),
    memory: model.memory(),
    rounds,
  }),
);
await model[Symbol.asyncDispose]();
await checkpoint[Symbol.asyncDispose]();
await runtime[Symbol.asyncDispose]();
