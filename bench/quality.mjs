// Quality per bit: KL divergence to the model as stored, perplexity, bits and weight error of some quantizers, on one model and text.
//   node bench/quality.mjs MODEL --ids IDS.json [--windows 24] QUANTIZER...
// A quantizer is hqq:b4:g64:a1 with :ls for least squares and :imp for importance from random tokens (:ls:imp); nf4, nf4:dq, fp4, int8.
// IDS.json: { "bos", "ids" } cut into windows of 255, or { "windows": [{ "ids" }] }, as in fixtures/golden. Prints one JSON line a quantizer.

import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { bitsPerWeight, createRuntime, linearTag, quantizationError, quantize, referenceBackend } from '../packages/core/dist/index.js';
import { hqq } from '../packages/hqq/dist/index.js';
import { openCheckpoint } from '../packages/hub/dist/index.js';
import { checkpointImportance, klDivergence, llama, loadModel, randomTokens } from '../packages/models/dist/index.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { ids: { type: 'string' }, windows: { type: 'string', default: '24' } },
});
const [folder, ...names] = positionals;
if (!folder || !values.ids || names.length === 0) throw new Error('usage: node bench/quality.mjs MODEL --ids IDS.json QUANTIZER...');

const data = JSON.parse(readFileSync(values.ids, 'utf8'));
const windows = (
  data.windows?.length > 0
    ? data.windows.map(({ ids }) => ids)
    : Array.from({ length: Math.floor(data.ids.length / 255) }, (_, i) => [data.bos, ...data.ids.slice(255 * i, 255 * (i + 1))])
).slice(0, Number(values.windows));

const bnb = names.some((name) => !name.startsWith('hqq')) ? await import('../packages/bnb/dist/index.js') : undefined;

function parse(name) {
  const [method, ...settings] = name.split(':');
  const importance = settings.includes('imp');
  if (method === 'nf4' || method === 'fp4') return { importance, quantizer: bnb[method]({ doubleQuant: settings.includes('dq') }) };
  if (method === 'int8') return { importance, quantizer: bnb.int8() };
  const number = (key, otherwise) => Number(settings.find((text) => new RegExp(`^${key}[\\d.]+$`).test(text))?.slice(1) ?? otherwise);
  const solver = settings.includes('ls') ? 'least-squares' : 'hqq';
  return { importance, quantizer: hqq({ bits: number('b', 4), groupSize: number('g', 64), axis: number('a', 1), solver }) };
}

const runtime = await createRuntime({ backends: [referenceBackend()] });
const checkpoint = await openCheckpoint(folder);
const reference = await loadModel(checkpoint, { runtime });
let collected;

for (const name of names) {
  const { importance, quantizer } = parse(name);
  if (importance && !collected) {
    const ids = randomTokens(reference.vocab, 1024);
    collected = await checkpointImportance(checkpoint, { runtime, ids: [ids] });
  }
  const moments = importance ? collected : undefined;
  const model = await loadModel(checkpoint, { runtime });
  const parts = new Map();
  for (const { path, shape } of llama.linears(checkpoint.config, checkpoint.source.entries)) {
    if (linearTag(path) === 'lm_head') continue;
    const { weight, bias } = await model.weight(path);
    const quantized = await quantize(weight, quantizer, { metaDtype: 'f16', importance: moments?.get(path) });
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
  process.stdout.write(`${JSON.stringify(row)}\n`);
  await model[Symbol.asyncDispose]();
}
