// Quality per bit: KL divergence to the model as stored, perplexity, bits and weight error of some quantizers, on one model and text.
//   node bench/quality.mjs MODEL --ids IDS.json [--windows 24] [--save FILE.json] QUANTIZER...
// A quantizer is as rules of `lowbit quantize` have it, hqq:b4:g64:ls, nf4:search, higgs:b2:h256:unbiased, with :imp (random tokens), :self or :weights for importance.
// IDS.json: { "bos", "ids" } cut into windows of 255, or { "windows": [{ "ids" }] }, as in fixtures/golden. Prints one JSON line a quantizer.
// --save writes them to a file, with what was run: the tables of docs/ are made of bench/results (node tools/docs-tables.mjs).

import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { parseArgs } from 'node:util';
import { findBackends, findImportance, makeChoices } from '../packages/cli/dist/index.js';
import { bitsPerWeight, createRuntime, linearTag, quantizationError, quantize } from '../packages/core/dist/index.js';
import { openCheckpoint } from '../packages/hub/dist/index.js';
import { klDivergence, llama, loadModel } from '../packages/models/dist/index.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    ids: { type: 'string' },
    windows: { type: 'string', default: '24' },
    backend: { type: 'string', default: 'auto' },
    save: { type: 'string' },
  },
});
const [folder, ...names] = positionals;
if (!folder || !values.ids || names.length === 0) throw new Error('usage: node bench/quality.mjs MODEL --ids IDS.json QUANTIZER...');

const data = JSON.parse(readFileSync(values.ids, 'utf8'));
const windows = (
  data.windows?.length > 0
    ? data.windows.map(({ ids }) => ids)
    : Array.from({ length: Math.floor(data.ids.length / 255) }, (_, i) => [data.bos, ...data.ids.slice(255 * i, 255 * (i + 1))])
).slice(0, Number(values.windows));

const IMPORTANCE = ['random-tokens', 'self', 'weights'];

function parse(name) {
  const settings = name.split(':');
  const importance = IMPORTANCE.find((word) => settings.includes(word)) ?? (settings.includes('imp') ? 'random-tokens' : 'none');
  const use = settings.filter((word) => word !== 'imp' && !IMPORTANCE.includes(word)).join(':');
  return { importance, quantizer: makeChoices([use])[0].use };
}

const runtime = await createRuntime({ backends: await findBackends(values.backend) });
const checkpoint = await openCheckpoint(folder);
const reference = await loadModel(checkpoint, { runtime });
const collected = new Map();
const rows = [];

for (const name of names) {
  const { importance, quantizer } = parse(name);
  if (!collected.has(importance)) collected.set(importance, (await findImportance(folder, importance, { runtime })).importance);
  const moments = collected.get(importance);
  const model = await loadModel(checkpoint, { runtime });
  const parts = new Map();
  for (const { path, shape } of llama.linears(checkpoint.config, checkpoint.source.entries)) {
    if (linearTag(path) === 'lm_head') continue;
    const { weight, bias } = await model.weight(path);
    const quantized = await quantize(weight, quantizer, { metaDtype: 'f16', threads: 2, runtime, importance: moments?.get(path) });
    const { mse, snrDb } = quantizationError(weight, quantized);
    const count = shape[0] * shape[1];
    parts.set(path, { count, error: mse * count, weight: mse * count * 10 ** (snrDb / 10), bits: bitsPerWeight(quantized.format, shape) });
    await model.replace(path, await runtime.linear(quantized, { bias }));
  }
  const measured = await klDivergence(reference, model, windows, { contextLength: windows[0].length });
  const total = (of) => [...parts.values()].reduce((sum, part) => sum + of(part), 0);
  const round = (value, digits) => Number(value.toPrecision(digits));
  const row = {
    quantizer: name,
    bits: round(total(({ bits, count }) => bits * count) / total(({ count }) => count), 4),
    kl: round(measured.kl, 4),
    klStderr: round(measured.klStderr, 2),
    perplexity: round(measured.model.perplexity, 6),
    top1: round(measured.top1, 4),
    weightError: round(total(({ error }) => error) / total(({ weight }) => weight), 4),
    tokens: measured.tokens,
  };
  rows.push(row);
  process.stdout.write(`${JSON.stringify(row)}\n`);
  await model[Symbol.asyncDispose]();
}
if (values.save) {
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim();
  const backend = (await runtime.backend()).device.label;
  const about = {
    script: 'bench/quality.mjs',
    model: basename(folder),
    ids: basename(values.ids),
    windows: windows.length,
    commit,
    node: process.version,
    backend,
  };
  writeFileSync(values.save, `${JSON.stringify({ ...about, rows }, null, 1)}\n`);
}
