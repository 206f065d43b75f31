// The bitsandbytes methods on the command line: quantized, inspected, loaded and run.

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
  dir = mkdtempSync(join(tmpdir(), 'lowbit-methods-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

interface Expected {
  readonly bits: number;
  readonly error: number;
  readonly format: object;
  readonly config: object;
}

const fourBit = (table: string, group = 64) => ({ kind: 'codebook', bits: 4, table, group });
/** Errors are those of fixtures/golden/QUALITY.md. */
const methods: [name: string, args: string[], expected: Expected][] = [
  ['nf4', ['-m', 'nf4'], { bits: 4.5, error: 0.0085, format: fourBit('nf4'), config: { load_in_4bit: true, bnb_4bit_quant_type: 'nf4' } }],
  [
    'nf4-dq',
    ['-m', 'nf4', '--double-quant'],
    { bits: 4.2, error: 0.0085, format: { ...fourBit('nf4'), offset: true }, config: { bnb_4bit_use_double_quant: true } },
  ],
  ['fp4', ['-m', 'fp4', '-g', '128'], { bits: 4.25, error: 0.0175, format: fourBit('fp4', 128), config: { bnb_4bit_quant_type: 'fp4' } }],
  [
    'int8',
    ['-m', 'int8', '--threshold', '4'],
    { bits: 8.1, error: 0.0001, format: { kind: 'int8', threshold: 4 }, config: { load_in_8bit: true, llm_int8_threshold: 4 } },
  ],
];

it.each(methods)('%s', async (name, args, { bits, error, format, config }) => {
  const made = await lowbitJson<QuantizeModelReport>(['quantize', TINY, '-o', at(name), ...args]);
  expect(made.code).toBe(0);
  const report = made.json;
  expect(report.layout).toBe('bitsandbytes');
  expect(report.summary).toMatchObject({ quantizedLinears: 42, linears: 42 });
  expect(Math.abs(report.summary.bitsPerWeight - bits)).toBeLessThan(0.05);
  expect(Math.abs(report.weightError - error)).toBeLessThanOrEqual(0.1 * error + 5e-5);
  expect(report.loadsIn.join(' ')).toContain('transformers 4 and 5');

  const { quantization_config } = JSON.parse(readFileSync(join(at(name), 'config.json'), 'utf8'));
  expect(quantization_config).toMatchObject({ quant_method: 'bitsandbytes', ...config });
  await using checkpoint = await openCheckpoint(at(name));
  expect(checkpoint.quantized.size).toBe(42);
  for (const linear of checkpoint.quantized.values()) expect(linear.format).toMatchObject(format);
  const inspected = await lowbit(['inspect', at(name)]);
  expect([inspected.code, inspected.stdout.includes('quantization  bitsandbytes, 42 linears')]).toEqual([0, true]);

  const ask = ['-p', 'In the beginning', '--max-tokens', '8', '--temp', '0'];
  const text = await lowbitJson<GenerateResult>(['generate', at(name), ...ask]);
  expect(text.code).toBe(0);
  expect(text.json.ids.length).toBe(8);
});

it('rules mix them, with what they leave out from the flags', async () => {
  const rules = ['--rule', 'mlp.down_proj=nf4:g128', '--rule', '**.v_proj=int8:t0', '--rule', 'mlp.up_proj=fp4'];
  const made = await lowbitJson<QuantizeModelReport>([
    'quantize',
    TINY,
    '-o',
    at('mixed'),
    '-m',
    'nf4',
    '-g',
    '32',
    '--double-quant',
    ...rules,
  ]);
  expect(made.code).toBe(0);
  expect(made.json.loadsIn.join(' ')).toContain('Not transformers: it takes one number of bits');
  await using checkpoint = await openCheckpoint(at('mixed'));
  const format = (tag: string) => checkpoint.quantized.get(`model.layers.3.${tag}`)!.format;
  expect(format('self_attn.q_proj')).toMatchObject({ table: 'nf4', group: 32, offset: true });
  expect(format('mlp.down_proj')).toMatchObject({ table: 'nf4', group: 128, offset: true });
  expect(format('mlp.up_proj')).toMatchObject({ table: 'fp4', group: 32, offset: true });
  expect(format('self_attn.v_proj')).toMatchObject({ kind: 'int8' });
  expect((await lowbit(['generate', at('mixed'), '-p', 'And', '--max-tokens', '2'])).code).toBe(0);
});

it('says what a method refuses', async () => {
  const none = await lowbit(['quantize', TINY, '-o', at('x'), '-m', 'nf4', '-g', 'none']);
  expect([none.code, none.stderr]).toEqual([1, expect.stringMatching(/nf4 has no blocks of whole rows.*\nhint: .*power of two/)]);
  const odd = await lowbit(['quantize', TINY, '-o', at('x'), '-m', 'fp4', '-g', '48']);
  expect([odd.code, odd.stderr]).toEqual([1, expect.stringMatching(/blockSize cannot be 48/)]);
});
