// Quality per bit for any model: KL divergence to the model as stored, perplexity, size, bits and speed, for methods, bit widths and presets.
//   npm run bench:quality -- MODEL TEXT [QUANTIZER...] [--out ROWS.jsonl] [--name NAME] [--windows 8] [--ctx 1024] [--no-speed] [--backend auto]
// TEXT: a text, or token ids as JSON, { "bos", "ids" } cut into windows of 255 or { "windows": [{ "ids" }] } as in fixtures/golden.
// A quantizer is as rules of `lowbit quantize` have it, hqq:b4:g64:ls, nf4:search, higgs:b2:h256:unbiased, with :imp (random tokens), :self or :weights for importance;
// or the name of a preset, and small3:feedback for one with --feedback 0.75 (tokens that the model writes); or a recipe file (.json); or target:4.5:hqq+nf4+int8+higgs, what --target-bits 4.5 --methods shares out, with the KL that it predicts.
// Default: every method and bit width, and the presets.
// Prints one JSON line for each; with --out they are added to that file, and those that are there already are not measured again.
// tools/quality-page.mjs makes docs/quality.md of such files, tools/docs-tables.mjs tables of other pages, tools/preset-figures.mjs what presets say of themselves.
// Seconds are of the clock and, since other work may share the machine, of the processor; finding importance is counted apart, once for all rows that use it.

import { spawnSync } from 'node:child_process';
import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import {
  allocateModel,
  choicesAcross,
  findBackends,
  findImportance,
  loadModel,
  makeChoices,
  PRESETS,
  presetRecipe,
  quantizeModel,
  readRecipe,
  recipeOptions,
} from '../packages/cli/dist/index.js';
import { createRuntime } from '../packages/core/dist/index.js';
import { openCheckpoint } from '../packages/hub/dist/index.js';
import { benchModel, klDivergence } from '../packages/models/dist/index.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    out: { type: 'string' },
    name: { type: 'string' },
    windows: { type: 'string', default: '8' },
    ctx: { type: 'string', default: '1024' },
    backend: { type: 'string', default: 'auto' },
    'no-speed': { type: 'boolean', default: false },
  },
});
const [folder, text, ...asked] = positionals;
if (!folder || !text) throw new Error('usage: npm run bench:quality -- MODEL TEXT [QUANTIZER...]');

// In the order of tables.
const EVERYTHING = [
  ...['hqq:b8:g64', 'hqq:b4:g64', 'hqq:b4:g64:ls', 'hqq:b4:g64:ls:imp', 'hqq:b4:g128'],
  ...['hqq:b3:g64', 'hqq:b3:g64:ls', 'hqq:b2:g64', 'hqq:b2:g64:ls', 'hqq:b2:g16'],
  ...['nf4', 'nf4:dq', 'nf4:search', 'nf4:search:imp', 'fp4', 'fp4:search', 'fp4:search:imp', 'int8'],
  ...['higgs:b4:h256', 'higgs:b3:h256', 'higgs:b2:h256', 'higgs:b4:h256:unbiased', 'higgs:b3:h256:unbiased', 'higgs:b2:h256:unbiased'],
  ...PRESETS,
];
const names = asked.length > 0 ? asked : EVERYTHING;
const IMPORTANCE = ['random-tokens', 'self', 'weights'];

/** What a name stands for, as options of `quantizeModel`. */
async function optionsOf(name) {
  if (name.startsWith('target:')) return { quantizer: 'keep', importance: 'random-tokens' };
  if (PRESETS.includes(name)) return recipeOptions(presetRecipe(name));
  const [preset, more] = name.split(':');
  if (PRESETS.includes(preset) && more === 'feedback')
    return { ...(await recipeOptions({ ...presetRecipe(preset), importance: 'self', feedback: 0.75 })), isLate: true };
  if (name.endsWith('.json')) {
    const recipe = await readRecipe(name);
    return { ...(await recipeOptions(recipe)), isLate: recipe.feedback !== undefined };
  }
  const words = name.split(':');
  const importance = IMPORTANCE.find((word) => words.includes(word)) ?? (words.includes('imp') ? 'random-tokens' : 'none');
  const [{ use: quantizer }] = makeChoices([words.filter((word) => word !== 'imp' && !IMPORTANCE.includes(word)).join(':')]);
  return { quantizer, importance };
}

/** Of a target: what the flags --target-bits and --methods make of the default, rotations as short as rows of any model are. */
async function shared(name, importance) {
  const [, targetBits, methods] = name.split(':');
  const settings = { solver: 'least-squares', hadamardSize: 64 };
  const menu = choicesAcross(methods.split('+'), settings).map((choice) => (choice.startsWith('higgs') ? `${choice}:h64` : choice));
  const allocation = await allocateModel(folder, {
    ...{ targetBits: Number(targetBits), choices: makeChoices(menu, settings), importance, runtime, threads: availableParallelism() },
    sensitivities: known.get('sensitivities'),
  });
  known.set('sensitivities', allocation.sensitivities);
  const choices = {};
  for (const { choice, weights } of allocation.linears) choices[choice] = round((choices[choice] ?? 0) + weights / allocation.weights, 3);
  return {
    rules: allocation.rules,
    told: { predicted: round(allocation.loss, 4), tokensTested: allocation.sensitivities.tokens, choices },
  };
}

const runtime = await createRuntime({ backends: await findBackends(values.backend) });
const checkpoint = await openCheckpoint(folder);
const reference = await loadModel(folder, { runtime });
const windows = windowsOf(readFileSync(text, 'utf8')).slice(0, Number(values.windows));
const original = remembered(reference, windows);
const model = values.name ?? basename(folder);
const work = mkdtempSync(join(tmpdir(), 'lowbit-quality-'));
const known = new Map();
const round = (value, digits) => Number(value.toPrecision(digits));

/** As they are scored: with a start token in front where the model wants one. */
function windowsOf(content) {
  const cut = (ids, size, first) => {
    const all = Array.from({ length: Math.floor(ids.length / size) }, (_, i) => [...first, ...ids.slice(size * i, size * (i + 1))]);
    if (all.length === 0) throw new Error(`${text} has ${ids.length} tokens: too few for one window of ${size} (--ctx)`);
    return all;
  };
  if (text.endsWith('.json')) {
    const data = JSON.parse(content);
    return data.windows?.length > 0 ? data.windows.map(({ ids }) => ids) : cut(data.ids, 255, [data.bos]);
  }
  const { tokenizer } = reference;
  const first = tokenizer.encode('a')[0] === tokenizer.bosId ? [tokenizer.bosId] : [];
  const size = Math.min(Number(values.ctx), reference.contextLength) - first.length;
  return cut(tokenizer.encode(content, { addSpecialTokens: false }), size, first);
}

/** The reference, whose logits are computed once where they take no more than 2 GiB. */
function remembered(whole, texts) {
  if (texts.reduce((sum, ids) => sum + ids.length, 0) * whole.vocab * 4 > 2 ** 31) return whole;
  const rows = new Map();
  return {
    vocab: whole.vocab,
    contextLength: whole.contextLength,
    async *logitRows(ids, options) {
      const key = texts.findIndex((text) => text.length === ids.length && text.every((id, i) => id === ids[i]));
      if (!rows.has(key)) {
        const own = [];
        for await (const part of whole.logitRows(ids, options)) own.push({ ...part, logits: part.logits.slice() });
        rows.set(key, own);
      }
      yield* rows.get(key);
    },
  };
}

/** What it gave, and seconds of the clock and of the processor. */
async function timed(work) {
  const [started, used] = [performance.now(), process.cpuUsage()];
  const value = await work();
  const { user, system } = process.cpuUsage(used);
  return { value, seconds: round((performance.now() - started) / 1000, 3), cpuSeconds: round((user + system) / 1e6, 3) };
}

async function importanceOf(source) {
  if (source === 'none') return undefined;
  if (!known.has(source)) known.set(source, await timed(async () => (await findImportance(folder, source, { runtime })).importance));
  return known.get(source);
}

async function speed(own) {
  if (values['no-speed']) return {};
  const [read, written] = await benchModel(own, { prompt: 128, generate: 32, repetitions: 3 });
  const of = ({ tokensPerSecond: { mean, stddev } }) => ({ mean: round(mean, 3), stddev: round(stddev, 2) });
  return { pp128: of(read), tg32: of(written) };
}

async function row(name) {
  const { importance, isLate, ...how } = await optionsOf(name);
  // Feedback finds moments while it quantizes.
  const moments = isLate ? undefined : await importanceOf(importance);
  const out = join(work, 'model');
  const { rules, told } = name.startsWith('target:') ? await shared(name, moments.value) : {};
  const made = await timed(() =>
    quantizeModel(folder, {
      ...how,
      ...(rules && { rules }),
      importance: isLate ? importance : (moments?.value ?? 'none'),
      out,
      overwrite: true,
      runtime,
      threads: availableParallelism(),
    }),
  );
  const report = made.value;
  const own = await loadModel(out, { runtime });
  try {
    const { kl, klStderr, top1, model: scored, tokens } = await klDivergence(original, own, windows, { contextLength: windows[0].length });
    return {
      bitsPerWeight: round(report.summary.bitsPerWeight, 4),
      bitsPerParameter: round(report.summary.bitsPerParameter, 4),
      bytes: report.weightBytes.after,
      layout: report.layout,
      kl: round(kl, 4),
      klStderr: round(klStderr, 2),
      perplexity: round(scored.perplexity, 6),
      perplexityStderr: round(scored.stderr, 3),
      top1: round(top1, 4),
      weightError: round(report.weightError, 4),
      tokens,
      ...told,
      quantizeSeconds: made.seconds,
      quantizeCpuSeconds: made.cpuSeconds,
      ...(moments && { importanceSeconds: moments.seconds, importanceCpuSeconds: moments.cpuSeconds }),
      ...(await speed(own)),
    };
  } finally {
    await own[Symbol.asyncDispose]();
  }
}

async function asStored() {
  const { model: scored, tokens } = await klDivergence(original, reference, windows, { contextLength: windows[0].length });
  const bytes = checkpoint.source.files.reduce((sum, { size }) => sum + size, 0);
  const shown = { perplexity: round(scored.perplexity, 6), perplexityStderr: round(scored.stderr, 3), tokens };
  return { bitsPerWeight: 16, bytes, kl: 0, klStderr: 0, top1: 1, ...shown, ...(await speed(reference)) };
}

const { name: backend, device } = await runtime.backend();
// Nothing where this is no clone.
const commit = spawnSync('git', ['rev-parse', '--short', 'HEAD'], {
  cwd: fileURLToPath(new URL('..', import.meta.url)),
  encoding: 'utf8',
}).stdout?.trim();
const measured = {
  model,
  text: basename(text),
  windows: windows.length,
  backend: `${backend} (${device.label})`,
  ...(commit && { commit }),
};
const there = new Set();
if (values.out && existsSync(values.out)) {
  for (const line of readFileSync(values.out, 'utf8').split('\n').filter(Boolean)) {
    const { model: of, text: on, windows: count, quantizer } = JSON.parse(line);
    if (of === model && on === measured.text && count === windows.length) there.add(quantizer);
  }
}
try {
  for (const name of ['original', ...names]) {
    const quantizer = name.endsWith('.json') ? basename(name, '.json') : name;
    if (there.has(quantizer)) continue;
    const line = JSON.stringify({ ...measured, quantizer, ...(name === 'original' ? await asStored() : await row(name)) });
    if (values.out) appendFileSync(values.out, `${line}\n`);
    process.stdout.write(`${line}\n`);
  }
} finally {
  rmSync(work, { recursive: true, force: true });
}
