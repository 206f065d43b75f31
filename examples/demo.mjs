// @ts-check
// The demo: quantizes the trained model in examples/tiny-llama to 4 bits through the library entry of `lowbit`, measures both models on held-out
// text, and lets both write. Every number it prints is measured while it runs. Started by `npm run demo`; `npm run demo -- --windows 40` takes longer.

import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const library = new URL('../packages/cli/dist/index.js', import.meta.url);
if (!existsSync(library)) {
  console.error('demo: the packages are not built; run `npm run demo`, or `pnpm build` first.');
  process.exit(1);
}
/** @type {typeof import('../packages/cli/src/index.ts')} */
const { klDivergence, loadModel, planModel, presetRecipe, quantizeModel, recipeOptions } = await import(library.href);

const { values } = (() => {
  try {
    return parseArgs({ options: { windows: { type: 'string', default: '10' } } });
  } catch (error) {
    console.error(`demo: ${/** @type {Error} */ (error).message}`);
    console.error('usage: npm run demo [-- --windows N]');
    process.exit(2);
  }
})();
const windows = Number(values.windows);
if (!Number.isInteger(windows) || windows < 1) {
  console.error(`demo: --windows ${values.windows} is not a whole number of 1 or more.`);
  process.exit(2);
}

process.env.LOWBIT_CACHE ??= 'off'; // what it loads is gone when it ends
const source = fileURLToPath(new URL('./tiny-llama', import.meta.url));
const prompt = 'It was a fine morning, and';
const sampling = { temperature: 0.7, topK: 40, seed: 1, maxTokens: 60 };
/** Tokens of a window, and the start token in front of it. */
const body = 255;

const controller = new AbortController();
const { signal } = controller;
process.once('SIGINT', () => controller.abort(new Error('interrupted')));

/** @type {Record<string, string>} */
const BACKENDS = { cpu: 'native code', reference: 'plain TypeScript on one core' };

/** @param {number} bytes */
const mb = (bytes) => `${(bytes / 1e6).toFixed(2)} MB`;

/**
 * Stored bits of a linear weight, scales included.
 * @param {import('../packages/cli/src/index.ts').ModelPlan} plan
 */
function bitsPerWeight({ tags }) {
  const bytes = tags.reduce((sum, tag) => sum + tag.bytes, 0);
  const weights = tags.reduce((sum, tag) => sum + tag.weights, 0);
  return (8 * bytes) / weights;
}

/** @param {readonly (readonly string[])[]} rows */
function printTable(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  for (const row of rows)
    console.log(`  ${row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join('   ')}`);
}

const started = performance.now();
const folder = await mkdtemp(join(tmpdir(), 'lowbit-demo-'));
/** @type {import('../packages/cli/src/index.ts').LanguageModel[]} */
const models = [];
try {
  const out = join(folder, 'tiny-llama-best4');
  console.log('Quantizing examples/tiny-llama as `lowbit quantize` does unasked: 4 bits, groups of 64, scales that lose least ...');
  const report = await quantizeModel(source, { out, ...(await recipeOptions(presetRecipe('best4'))), signal });
  const before = await planModel(source, { rules: [{ match: '**', use: 'keep' }], signal });
  const layers = `${report.summary.quantizedLinears} of ${report.summary.linears} linear layers`;
  console.log(`  ${layers} in ${(report.ms / 1000).toFixed(1)} s, weight error ${report.weightError.toFixed(4)}`);

  /** @type {Set<string>} */
  const notes = new Set();
  for (const path of [source, out]) models.push(await loadModel(path, { signal, onNote: (note) => notes.add(note) }));
  for (const note of notes) console.log(note);
  const [original, quantized] = models;
  const { tokenizer } = original;
  const text = await readFile(join(source, 'eval.txt'), 'utf8');
  const ids = tokenizer.encode(text, { addSpecialTokens: false }).slice(0, windows * body);
  const prefixIds = [/** @type {number} */ (tokenizer.bosId)];
  console.log(`Measuring both on ${windows} windows of ${body} tokens of held-out text ...`);
  const result = await klDivergence(original, quantized, ids, { contextLength: body + 1, prefixIds, dropPartial: true, signal });

  console.log('Letting both write ...');
  const continuations = [];
  for (const model of models) {
    await model.generate({ prompt, ...sampling, maxTokens: 8, signal }); // the JIT compiler's share is not what is measured
    continuations.push(await model.generate({ prompt, ...sampling, signal }));
  }
  const speeds = continuations.map(({ timings }) => timings.tokensPerSecond.toFixed(0));

  console.log(`\nMeasured on ${result.tokens} tokens:\n`);
  printTable([
    ['', 'bf16', 'best4'],
    ['weights on disk', mb(report.weightBytes.before), mb(report.weightBytes.after)],
    ['bits per linear weight', bitsPerWeight(before).toFixed(2), bitsPerWeight(report).toFixed(2)],
    ['perplexity', result.reference.perplexity.toFixed(3), result.model.perplexity.toFixed(3)],
    ['KL divergence (nats)', '', result.kl.toFixed(5)],
    ['same likeliest token', '', `${(100 * result.top1).toFixed(1)} %`],
    ['tokens per second', ...speeds],
  ]);
  console.log(`\n"${prompt}" goes on (temperature ${sampling.temperature}, topK ${sampling.topK}, seed ${sampling.seed}):`);
  for (const [i, { text: continuation }] of continuations.entries()) {
    console.log(`\n  [${['bf16', 'best4'][i]}] ${`${prompt}${continuation}`.replaceAll(/\n+/g, '\n  ')}`);
  }
  const backends = [...new Set(models.flatMap((model) => model.placement.map(({ backend }) => backend)))];
  const seconds = ((performance.now() - started) / 1000).toFixed(0);
  console.log(`\nDone in ${seconds} s on ${backends.map((name) => `${name} (${BACKENDS[name] ?? 'a backend'})`).join(', ')}.`);
} catch (error) {
  console.error(`demo: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = signal.aborted ? 130 : 1;
} finally {
  for (const model of models) await model[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
}
