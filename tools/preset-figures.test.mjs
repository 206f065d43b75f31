import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { FILE, figuresOf, moduleText } from './preset-figures.mjs';
import { readResults } from './quality-page.mjs';

it('what presets say is what the results say', () => {
  expect(readFileSync(FILE, 'utf8'), 'run node tools/preset-figures.mjs').toBe(moduleText(readResults()));
});

it('compares on models where both were measured, and nowhere else', () => {
  const row = (model, quantizer, kl) => ({ model, quantizer, kl, bitsPerWeight: 4.5 });
  const rows = [row('tiny-llama', 'best4', 0.03), row('tiny-llama', 'hqq:b4:g64', 0.04), row('SmolLM2-135M-Instruct', 'best4', 1)];
  expect(figuresOf('best4', rows)).toBe('4.5 bits a weight; KL divergence 0.75 of the solver hqq on tiny-llama');
  const both = [...rows, row('SmolLM2-135M-Instruct', 'hqq:b4:g64', 2)];
  expect(figuresOf('best4', both)).toBe('4.5 bits a weight; KL divergence 0.50 of the solver hqq on SmolLM2, 0.75 on tiny-llama');
  expect(() => figuresOf('small3', both)).toThrow('bench/results has no rows of small3 and hqq:b3:g64 on one model');
});
