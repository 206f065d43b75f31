// Bits shared out by sensitivity against one width for all: predicted and measured KL divergence, and perplexity.
//   node bench/allocation.mjs MODEL --ids IDS.json [--windows 6] [--targets 2.5,3,3.25,3.5,4] [--choices hqq:b2:g64,...] [--sensitivity random|text|FILE]
// IDS.json: { "bos", "ids" } cut into windows of 255, or { "windows": [{ "ids" }] }, as in fixtures/golden. `text` tests on 128 tokens behind the windows
// that are scored; FILE is what `lowbit quantize --save-sensitivity` wrote. Prints one JSON line a model: every choice for all layers, which
// --allocated-only does not measure, then every target.

import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { allocateModel, defaultChoices, loadModel, makeChoices } from '../packages/cli/dist/index.js';
import { createRuntime, linearTag, patchLinears, referenceBackend } from '../packages/core/dist/index.js';
import { klDivergence } from '../packages/models/dist/index.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    ids: { type: 'string' },
    windows: { type: 'string', default: '6' },
    targets: { type: 'string', default: '2.5,3,3.25,3.5,4' },
    choices: { type: 'string' },
    sensitivity: { type: 'string', default: 'random' },
    tokens: { type: 'string' },
    per: { type: 'string', default: 'linear' },
    'allocated-only': { type: 'boolean', default: false },
  },
});
const [folder] = positionals;
if (!folder || !values.ids) throw new Error('usage: node bench/allocation.mjs MODEL --ids IDS.json');

const data = JSON.parse(readFileSync(values.ids, 'utf8'));
const all =
  data.windows?.length > 0
    ? data.windows.map(({ ids }) => ids)
    : Array.from({ length: Math.floor(data.ids.length / 255) }, (_, i) => [data.bos, ...data.ids.slice(255 * i, 255 * (i + 1))]);
const windows = all.slice(0, Number(values.windows));
const names = values.choices?.split(',') ?? defaultChoices('hqq');
const choices = makeChoices(names);

const runtime = await createRuntime({ backends: [referenceBackend()] });
const reference = await loadModel(folder, { runtime });

/** The reference's logits, computed once. */
const known = new Map();
const remembered = {
  vocab: reference.vocab,
  contextLength: reference.contextLength,
  async *logitRows(ids, options) {
    const key = windows.findIndex((window) => window.length === ids.length && window.every((id, i) => id === ids[i]));
    if (!known.has(key)) {
      const rows = [];
      for await (const part of reference.logitRows(ids, options)) rows.push({ ...part, logits: part.logits.slice() });
      known.set(key, rows);
    }
    yield* known.get(key);
  },
};

const round = (value, digits = 4) => Number(value.toPrecision(digits));

/** Quantizes by rules and scores. */
async function measure(rules) {
  const model = await loadModel(folder, { runtime });
  await patchLinears(model, rules, { runtime });
  const sums = { kl: 0, before: 0, after: 0, tokens: 0 };
  for (const ids of windows) {
    const part = await klDivergence(remembered, model, ids, { contextLength: ids.length });
    sums.kl += part.kl * part.tokens;
    sums.before += part.reference.nll * part.tokens;
    sums.after += part.model.nll * part.tokens;
    sums.tokens += part.tokens;
  }
  await model[Symbol.asyncDispose]();
  const [before, after] = [Math.exp(sums.before / sums.tokens), Math.exp(sums.after / sums.tokens)];
  return { kl: round(sums.kl / sums.tokens), perplexity: round(after, 6), before: round(before, 6), tokens: sums.tokens };
}

const print = (row) => process.stdout.write(`${JSON.stringify(row)}\n`);

let sensitivities;
let first = true;
let tested = {};
if (values.sensitivity === 'text') tested = { ids: all.slice(windows.length, windows.length + 1) };
else if (values.sensitivity !== 'random') sensitivities = JSON.parse(readFileSync(values.sensitivity, 'utf8'));
if (values.tokens) tested = { ...tested, tokens: Number(values.tokens) };

for (const target of values.targets.split(',').map(Number)) {
  const allocation = await allocateModel(folder, { targetBits: target, choices, sensitivities, per: values.per, ...tested });
  if (first) {
    first = false;
    for (const { choice, bitsPerWeight, loss } of allocation.uniform) {
      const rules = [{ match: allocation.linears.map(({ path }) => path), use: choices.find(({ name }) => name === choice).use }];
      const row = { model: choice, bits: round(bitsPerWeight), predicted: round(loss) };
      print({ ...row, ...(values['allocated-only'] ? {} : await measure(rules)) });
    }
    sensitivities = allocation.sensitivities;
  }
  const { bitsPerWeight, loss, gap, linears, rules } = allocation;
  const row = { model: `allocated ${target}`, bits: round(bitsPerWeight), predicted: round(loss), gap };
  print({ ...row, ...(await measure(rules)), choices: tally(linears) });
}

/** Choices by tag: `v_proj: hqq:b4:g64 x 6`. */
function tally(linears) {
  const counts = {};
  for (const { path, choice } of linears) {
    const tag = linearTag(path).split('.').at(-1);
    counts[tag] ??= {};
    counts[tag][choice] = (counts[tag][choice] ?? 0) + 1;
  }
  return counts;
}
