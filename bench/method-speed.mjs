// What each method costs in speed: a decode step and a prefill of 128 tokens, relative to the same model dense on the same backend.
//   node bench/method-speed.mjs MODEL [QUANTIZER...] [--backend cpu] [--rounds 11] [--generate 16] [--name NAME] [--out bench/speed/FILE.jsonl]
// Quantizers as rules of `lowbit quantize` have them. In each round every method is timed once, and dense before and after it; a ratio is that of its time to the mean of
// the two, and medians over the rounds are told, with the quartiles. Times are those of the processor on one thread, so that other work on the machine counts little.
// tools/quality-page.mjs shows bench/speed/*.jsonl in docs/quality.md.

import { spawnSync } from 'node:child_process';
import { appendFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { findBackends, loadModel, makeChoices, quantizeModel } from '../packages/cli/dist/index.js';
import { createRuntime } from '../packages/core/dist/index.js';
import { benchModel } from '../packages/models/dist/index.js';
import { quantile, quartiles } from './spread.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    backend: { type: 'string', default: 'cpu' },
    rounds: { type: 'string', default: '11' },
    generate: { type: 'string', default: '16' },
    prompt: { type: 'string', default: '128' },
    name: { type: 'string' },
    out: { type: 'string' },
  },
});
const [folder, ...asked] = positionals;
if (!folder) throw new Error('usage: node bench/method-speed.mjs MODEL [QUANTIZER...]');
/** Solver, scale and importance change no format: presets are as fast as their bits. */
const EVERYTHING = [
  ...['hqq:b8:g64', 'hqq:b4:g64', 'hqq:b3:g64', 'hqq:b2:g64', 'nf4', 'nf4:dq', 'fp4', 'int8'],
  ...['higgs:b4:h64', 'higgs:b3:h64', 'higgs:b2:h64'],
];
const names = asked.length > 0 ? asked : EVERYTHING;
const [rounds, generate, prompt] = [values.rounds, values.generate, values.prompt].map(Number);
process.env.LOWBIT_CACHE = 'off'; // what is quantized here is gone when this ends

const one = values.backend === 'cpu' ? { threads: 1 } : {};
const runtime = await createRuntime({ backends: await findBackends(values.backend, one) });
const work = mkdtempSync(join(tmpdir(), 'lowbit-speed-'));

/** Milliseconds of the processor for a prefill, and for a step of decoding. */
async function timed(model) {
  const spent = async (test) => {
    const before = process.cpuUsage();
    await benchModel(model, { prompt: 0, generate: 0, ...test, repetitions: 1, warmup: false });
    const { user, system } = process.cpuUsage(before);
    return (user + system) / 1000;
  };
  return { prefill: await spent({ prompt }), decode: (await spent({ generate })) / generate };
}

const round = (value) => Number(value.toPrecision(3));
const told = (list) => {
  const [from, ratio, to] = quartiles(list).map(round);
  return { ratio, from, to };
};

try {
  const dense = await loadModel(folder, { runtime });
  const models = [];
  for (const name of names) {
    const out = join(work, name.replaceAll(':', '-'));
    const [{ use: quantizer }] = makeChoices([name]);
    await quantizeModel(folder, { out, quantizer, runtime });
    models.push({ name, model: await loadModel(out, { runtime }), prefill: [], decode: [] });
  }
  const base = { prefill: [], decode: [] };
  for (const { model } of [{ model: dense }, ...models]) await timed(model); // to warm up
  for (let i = 0; i < rounds; i++) {
    let before = await timed(dense);
    for (const row of models) {
      const own = await timed(row.model);
      const after = await timed(dense);
      for (const of of ['prefill', 'decode']) {
        row[of].push((2 * own[of]) / (before[of] + after[of]));
        base[of].push(after[of]);
      }
      before = after;
    }
  }
  const { name: backend, device } = await runtime.backend();
  const commit = spawnSync('git', ['rev-parse', '--short', 'HEAD'], {
    cwd: fileURLToPath(new URL('..', import.meta.url)),
    encoding: 'utf8',
  }).stdout?.trim();
  const about = { model: values.name ?? basename(folder), backend, device: device.label, ...(commit && { commit }), rounds, prompt };
  for (const { name, prefill, decode } of models) {
    const dense = { prefillMs: round(quantile(base.prefill, 0.5)), decodeMs: round(quantile(base.decode, 0.5)) };
    const line = JSON.stringify({ ...about, quantizer: name, prefill: told(prefill), decode: told(decode), dense });
    if (values.out) appendFileSync(values.out, `${line}\n`);
    process.stdout.write(`${line}\n`);
  }
} finally {
  await runtime[Symbol.asyncDispose]();
  rmSync(work, { recursive: true, force: true });
}
