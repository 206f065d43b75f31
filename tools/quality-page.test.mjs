import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { frontier, isOfPython, page, pythonBits, readResults } from './quality-page.mjs';

const golden = JSON.parse(readFileSync(new URL('../fixtures/golden/quality.json', import.meta.url), 'utf8'));

it('docs/quality.md is what the results say', () => {
  expect(readFileSync(new URL('../docs/quality.md', import.meta.url), 'utf8')).toBe(page(readResults(), golden));
});

it('counts the bits of Python rows as files have them', () => {
  expect(pythonBits('hqq-4bit-g64-axis1')).toBe(4.5);
  expect(pythonBits('hqq-3bit-g64-axis0')).toBe(3.7);
  expect(pythonBits('bnb-nf4-dq')).toBe(4.127);
  expect(pythonBits('higgs-2bit-p2-h512')).toBe(2.0625);
  expect(pythonBits('rtn-4bit-g64')).toBeUndefined();
});

it('the frontier leaves out what another row beats in both', () => {
  const rows = [
    { bitsPerWeight: 4.5, kl: 0.1 },
    { bitsPerWeight: 4, kl: 0.05 },
    { bitsPerWeight: 3, kl: 0.5 },
  ];
  expect(frontier(rows)).toEqual([rows[2], rows[1]]);
});

it('knows what Python makes, too', () => {
  expect(['hqq:b4:g64', 'nf4:dq', 'higgs:b2:h256', 'int8'].every(isOfPython)).toBe(true);
  expect(['hqq:b4:g64:ls', 'nf4:search', 'higgs:b2:h256:unbiased', 'nf4:imp', 'best4', 'original', 'hqq4-v8'].some(isOfPython)).toBe(false);
});
