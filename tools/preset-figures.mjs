// What presets say of themselves, made of what was measured: bench/results/*.jsonl (bench/quality.mjs).
//   node tools/preset-figures.mjs     writes packages/cli/src/preset-figures.ts; the test beside this file says whether it is current

import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { readResults } from './quality-page.mjs';

export const FILE = fileURLToPath(new URL('../packages/cli/src/preset-figures.ts', import.meta.url));
/** Models by the names that people know. */
const MODELS = { 'SmolLM2-135M-Instruct': 'SmolLM2', 'tiny-llama': 'tiny-llama' };
/** What each preset is better than at the same bits, and how that is called. */
const BEFORE = {
  best4: ['hqq:b4:g64', 'the solver hqq'],
  small3: ['hqq:b3:g64', 'the solver hqq'],
  tiny2: ['hqq:b2:g64', 'the solver hqq'],
  python4: ['nf4', 'nf4'],
};

/** Bits and KL of a preset beside what it replaces, on each model where both were measured. Throws where nothing was. */
export function figuresOf(preset, results) {
  const [before, called] = BEFORE[preset];
  const find = (model, name) =>
    results.filter((row) => row.model === model && row.quantizer === name).sort((a, b) => b.windows - a.windows);
  const measured = Object.entries(MODELS).flatMap(([model, name]) => {
    // On the same text, and as much of it as there is.
    const pairs = find(model, preset).flatMap((own) => {
      const theirs = find(model, before).find(({ windows }) => windows === own.windows);
      return theirs ? [{ name, own, ratio: own.kl / theirs.kl }] : [];
    });
    return pairs.slice(0, 1);
  });
  if (measured.length === 0) throw new Error(`bench/results has no rows of ${preset} and ${before} on one model`);
  const [first, ...others] = measured.map(({ name, ratio }, i) => `${ratio.toFixed(2)}${i === 0 ? ` of ${called}` : ''} on ${name}`);
  return `${measured[0].own.bitsPerWeight.toFixed(1)} bits a weight; KL divergence ${[first, ...others].join(', ')}`;
}

/** Text of the module. */
export function moduleText(results) {
  const lines = Object.keys(BEFORE).map((preset) => `  ${preset}: '${figuresOf(preset, results)}',`);
  return `// Made by \`node tools/preset-figures.mjs\` of bench/results: not to be edited.

/** What was measured of presets. */
export const FIGURES = {
${lines.join('\n')}
} as const;
`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) writeFileSync(FILE, moduleText(readResults()));
