// Bits shared out by the command: tested, chosen, written, measured, and done again from what was saved.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openCheckpoint } from '@lowbit/hub';
import type { MeasuredLoss, ModelAllocation, QuantizeModelReport } from 'lowbit';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ensureBuilt, lowbit, lowbitJson, TINY } from './cli-process.ts';

let dir = '';
const at = (name: string): string => join(dir, name);

beforeAll(() => {
  ensureBuilt();
  dir = mkdtempSync(join(tmpdir(), 'lowbit-allocation-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

type Report = QuantizeModelReport & { readonly allocation: Omit<ModelAllocation, 'rules'>; readonly measured?: MeasuredLoss };

it('shares out bits, says what it expects, and measures it', async () => {
  const text = readFileSync(join(TINY, 'eval.txt'), 'utf8').slice(0, 600);
  writeFileSync(at('text.txt'), text);
  const args = ['--target-bits', '3', '--sensitivity-tokens', '12', '--save-sensitivity', at('saved.json'), '--measure', at('text.txt')];
  const made = await lowbitJson<Report>(['quantize', TINY, '-o', at('out'), ...args]);
  expect(made.code).toBe(0);
  const { allocation, measured, summary } = made.json;
  expect(summary.bitsPerWeight).toBeLessThanOrEqual(3);
  expect(summary.bitsPerWeight).toBeCloseTo(allocation.bitsPerWeight, 9);
  expect(new Set(allocation.linears.map(({ choice }) => choice)).size).toBeGreaterThan(1);
  expect([allocation.gap, allocation.metric]).toEqual([0, 'kl']);
  // Random tokens overstate a text's loss by about two here; of few tokens not exactly.
  expect(allocation.loss / measured!.kl).toBeGreaterThan(0.5);
  expect(allocation.loss / measured!.kl).toBeLessThan(6);
  expect(measured!.perplexity.after).toBeGreaterThan(measured!.perplexity.before);
  await using checkpoint = await openCheckpoint(at('out'));
  for (const { path, choice } of allocation.linears) {
    expect(checkpoint.quantized.get(path)!.format, path).toMatchObject({ kind: 'affine', levels: 2 ** Number(choice[5]) });
  }

  // The same again from what was saved, in words.
  const again = await lowbit(['quantize', TINY, '--dry-run', '--target-bits', '3', '--sensitivity', at('saved.json')]);
  expect(again.code).toBe(0);
  expect(again.stdout).toContain(`reached      ${allocation.bitsPerWeight.toFixed(4)}`);
  expect(again.stdout).toContain(`predicted    KL ${allocation.loss.toPrecision(3)} nats per token`);
  expect(again.stdout).toContain('tested on    12 random tokens');
});

it('across methods and without data, predicts what is measured within a factor of two', async () => {
  const text = readFileSync(join(TINY, 'eval.txt'), 'utf8').slice(0, 2500);
  writeFileSync(at('longer.txt'), text);
  const args = ['--target-bits', '4', '--methods', 'hqq,nf4,int8,higgs', '--hadamard-size', '64', '--measure', at('longer.txt')];
  const { code, json } = await lowbitJson<Report>(['quantize', TINY, '-o', at('across'), ...args]);
  expect(code).toBe(0);
  const { allocation, measured, importance, layout } = json;
  expect([importance?.from, layout]).toEqual(['random-tokens', 'mixed']);
  const methods = new Set(allocation.linears.map(({ choice }) => choice.split(':')[0]));
  expect(methods.size).toBeGreaterThan(2);
  // docs/quality.md: 1.12 on 6,120 tokens.
  expect(allocation.loss / measured!.kl).toBeGreaterThan(0.5);
  expect(allocation.loss / measured!.kl).toBeLessThan(2);
});

it('takes HIGGS, whole tags and what rules leave', async () => {
  const args = [
    '-m',
    'higgs',
    '--hadamard-size',
    '256',
    '--skip',
    'self_attn.*',
    '--target-bits',
    '3.3',
    '--per',
    'tag',
    '--sensitivity-tokens',
    '4',
  ];
  const { code, json } = await lowbitJson<Report>(['quantize', TINY, '--dry-run', ...args]);
  expect(code).toBe(0);
  const { linears, bitsPerWeight } = json.allocation;
  expect(linears.length).toBe(18);
  expect(bitsPerWeight).toBeLessThanOrEqual(3.3);
  for (const tag of new Set(linears.map((linear) => linear.tag))) {
    expect(new Set(linears.filter((linear) => linear.tag === tag).map(({ choice }) => choice)).size).toBe(1);
  }
});

it('says the smallest target there is', async () => {
  const { code, stderr } = await lowbit(['quantize', TINY, '--dry-run', '-m', 'nf4', '--target-bits', '3.25']);
  expect(code).toBe(1);
  expect(stderr).toMatch(/3.25 bits per weight are fewer than the smallest choices take, 4\.2\d+/);
});
