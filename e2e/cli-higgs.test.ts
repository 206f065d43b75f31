// HIGGS on the command line: quantized, inspected, loaded and run, mixed by rules, and what it refuses.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openCheckpoint } from '@lowbit/hub';
import type { GenerateResult, QuantizeModelReport } from 'lowbit';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ensureBuilt, lowbit, lowbitJson, TINY } from './cli-process.ts';

let dir = '';
const at = (name: string): string => join(dir, name);

beforeAll(() => {
  ensureBuilt();
  dir = mkdtempSync(join(tmpdir(), 'lowbit-higgs-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

it('quantizes, inspects and generates', async () => {
  const args = ['quantize', TINY, '-o', at('four'), '-m', 'higgs', '--hadamard-size', '256', '--dtype', 'bf16'];
  const made = await lowbitJson<QuantizeModelReport>(args);
  expect(made.code).toBe(0);
  expect(made.json.layout).toBe('higgs');
  expect(made.json.summary).toMatchObject({ quantizedLinears: 42, linears: 42 });
  expect(Math.abs(made.json.weightError - 0.007849)).toBeLessThan(8e-6); // fixtures/golden/QUALITY.md
  expect(Math.abs(made.json.summary.bitsPerWeight - 4.0625)).toBeLessThan(0.2); // and a grid for each of the small layers
  expect(made.json.loadsIn.join(' ')).toMatch(/transformers 4\.49.*too small for FLUTE/s);

  const { quantization_config } = JSON.parse(readFileSync(join(at('four'), 'config.json'), 'utf8'));
  expect(quantization_config).toMatchObject({ quant_method: 'higgs', bits: 4, p: 2, group_size: 256, hadamard_size: 256 });
  await using checkpoint = await openCheckpoint(at('four'));
  const format = (tag: string) => checkpoint.quantized.get(`model.layers.3.${tag}`)!.format;
  expect(format('mlp.up_proj')).toMatchObject({ table: 'higgs-4-2', packing: 'flute4_p2_t32', scale: 'bf16' });
  const inspected = await lowbit(['inspect', at('four')]);
  expect([inspected.code, inspected.stdout.includes('quantization  higgs, 42 linears')]).toEqual([0, true]);
  const text = await lowbitJson<GenerateResult>(['generate', at('four'), '-p', 'In the beginning', '--max-tokens', '4', '--temp', '0']);
  expect([text.code, text.json.ids.length]).toEqual([0, 4]);
});

it('takes settings from rules, and what they leave out from the flags', async () => {
  const rules = ['--rule', 'mlp.down_proj=higgs:b3:p1:g64', '--rule', '**.v_proj=higgs:b2:h64:g64'];
  const made = await lowbitJson<QuantizeModelReport>(['quantize', TINY, '-o', at('mixed'), '-m', 'higgs', '-g', '128', ...rules]);
  expect(made.code).toBe(0);
  expect(made.json.loadsIn.join(' ')).toContain('mixed bit widths do not load in transformers');
  await using checkpoint = await openCheckpoint(at('mixed'));
  const format = (tag: string) => checkpoint.quantized.get(`model.layers.1.${tag}`)!.format;
  expect(format('mlp.up_proj')).toMatchObject({ bits: 4, dim: 2, group: 128, rotate: { block: 512 } });
  expect(format('mlp.down_proj')).toMatchObject({ bits: 3, dim: 1, group: 64, rotate: { block: 512 } });
  expect(format('self_attn.v_proj')).toMatchObject({ bits: 2, dim: 2, group: 64, packing: 'row_bits4', rotate: { block: 64 } });
  expect(made.json.loadsIn.join(' ')).toMatch(/v_proj.*portable form, which lowbit alone reads.*multiple of 256 with 2 bits/s);
});

it.each([
  [['-b', '8'], 2, /bits cannot be 8.*\nhint: Use 2, 3 or 4/],
  [['-g', 'none'], 2, /higgs has no blocks of whole rows.*\nhint: .*power of two/],
  [['-g', '1024'], 2, /--group cannot be 1024.*\nhint: .*512/],
  [['--hadamard-size', '768'], 2, /"768" is not a power of two up to 32768/],
  [['--p', '3'], 2, /"3" is not one of 2, 1/],
  [['--axis', '0'], 2, /--axis is for hqq, not for higgs/],
  [['--rule', 'mlp.*=higgs:h100'], 2, /"100" is not a power of two/],
])('refuses %j', async (args, code, message) => {
  const outcome = await lowbit(['quantize', TINY, '-o', at('x'), '-m', 'higgs', ...args]);
  expect([outcome.code, outcome.stderr]).toEqual([code, expect.stringMatching(message)]);
});
