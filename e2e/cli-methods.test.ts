// The bitsandbytes methods on the command line: quantized, inspected, loaded and run.

import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { dequantize, toFloat32 } from '@lowbit/core';
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
  [
    'nf4',
    ['-m', 'nf4'],
    {
      bits: 4.5,
      error: 0.0085,
      format: fourBit('nf4'),
      config: { load_in_4bit: true, bnb_4bit_quant_type: 'nf4', bnb_4bit_compute_dtype: 'float32' },
    },
  ],
  [
    'nf4-dq',
    ['-m', 'nf4', '--double-quant', '--compute-dtype', 'bf16'],
    {
      bits: 4.2,
      error: 0.0085,
      format: { ...fourBit('nf4'), offset: true },
      config: { bnb_4bit_use_double_quant: true, bnb_4bit_compute_dtype: 'bfloat16' },
    },
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

/** The tiny model with numbers of some tensors made NaN. */
function damagedModel(name: string, tensors: readonly string[]): void {
  cpSync(TINY, at(name), { recursive: true });
  const file = join(at(name), 'model.safetensors');
  const bytes = readFileSync(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + length));
  for (const tensor of tensors) {
    const { dtype, data_offsets } = header[tensor];
    expect(dtype).toBe('BF16');
    bytes.writeUInt16LE(0x7fc0, 8 + length + data_offsets[0] + 2 * 5);
  }
  writeFileSync(file, bytes);
}

it('--allow-non-finite takes what is not finite, and says so', async () => {
  const weight = 'model.layers.2.mlp.up_proj.weight';
  damagedModel('nan', [weight, 'model.norm.weight']);
  const refused = await lowbit(['quantize', at('nan'), '-o', at('nan-nf4'), '-m', 'nf4', '--resume']);
  // What such a run leaves behind is of another job: one that lets NaN through must not be finished by one that does not, nor the other way round.
  const mixed = await lowbit(['quantize', at('nan'), '-o', at('nan-nf4'), '-m', 'nf4', '--allow-non-finite', '--resume']);
  expect([mixed.code, mixed.stderr]).toEqual([1, expect.stringMatching(/ERR_JOURNAL_MISMATCH/)]);
  rmSync(at('nan-nf4.partial'), { recursive: true });
  expect([refused.code, refused.stderr]).toEqual([1, expect.stringMatching(/element 5 is NaN/)]);
  const hqq = await lowbit(['quantize', at('nan'), '-o', at('x'), '--allow-non-finite']);
  expect([hqq.code, hqq.stderr]).toEqual([2, expect.stringMatching(/--allow-non-finite is for nf4, fp4, int8, not for hqq/)]);

  const args = ['quantize', at('nan'), '-o', at('nan-nf4'), '-m', 'nf4', '--allow-non-finite', '--resume'];
  const made = await lowbit(args);
  expect([made.code, made.stdout]).toEqual([
    0,
    expect.stringMatching(
      /NaN, infinity +64 weights of model\.layers\.2\.mlp\.up_proj are stored as NaN or infinity, and not in the weight error/,
    ),
  ]);
  expect(made.stdout).toMatch(/Next: lowbit inspect/); // what it would generate is NaN
  await using checkpoint = await openCheckpoint(at('nan-nf4'));
  const spoilt = toFloat32(dequantize(await checkpoint.linear('model.layers.2.mlp.up_proj'))).filter(Number.isNaN);
  expect(spoilt.length).toBe(64);
  expect(toFloat32(await checkpoint.tensor('model.norm.weight'))[5]).toBeNaN();

  const again = await lowbitJson<QuantizeModelReport>([...args.slice(0, -1), '--overwrite']);
  expect(again.json.linears.filter(({ nonFinite }) => nonFinite).map(({ path, nonFinite }) => [path, nonFinite])).toEqual([
    ['model.layers.2.mlp.up_proj', 64],
  ]);
  expect(again.json.weightError).toBeGreaterThan(0.008);

  const double = await lowbit(['quantize', at('nan'), '-o', at('nan-dq'), '-m', 'nf4', '--double-quant', '--allow-non-finite']);
  expect(double.code).toBe(0);
  await expect(openCheckpoint(at('nan-dq'))).rejects.toMatchObject({
    code: 'ERR_NON_FINITE',
    hint: expect.stringContaining('allowNonFinite'),
  });
  await using opened = await openCheckpoint(at('nan-dq'), { allowNonFinite: true });
  expect(toFloat32(dequantize(await opened.linear('model.layers.2.mlp.up_proj'))).every(Number.isNaN)).toBe(true);
});

it('says what a method refuses', async () => {
  const none = await lowbit(['quantize', TINY, '-o', at('x'), '-m', 'nf4', '-g', 'none']);
  expect([none.code, none.stderr]).toEqual([2, expect.stringMatching(/nf4 has no blocks of whole rows.*\nhint: .*power of two/)]);
  const odd = await lowbit(['quantize', TINY, '-o', at('x'), '-m', 'fp4', '-g', '48']);
  expect([odd.code, odd.stderr]).toEqual([2, expect.stringMatching(/--group cannot be 48/)]);
  const dtype = await lowbit(['quantize', TINY, '-o', at('x'), '-m', 'nf4', '--compute-dtype', 'float32']);
  expect([dtype.code, dtype.stderr]).toEqual([2, expect.stringMatching(/"float32" is not one of f16, bf16, f32/)]);
  const idle = await lowbit(['quantize', TINY, '-o', at('x'), '-m', 'int8', '--compute-dtype', 'bf16']);
  expect([idle.code, idle.stderr]).toEqual([2, expect.stringMatching(/--compute-dtype is for nf4, fp4, not for int8/)]);
});
