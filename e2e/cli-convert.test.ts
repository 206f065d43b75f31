// `lowbit convert` and what `lowbit inspect` says of HIGGS, as their users run them.

import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ConvertModelReport, InspectReport } from 'lowbit';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { goldenPath } from '../fixtures/golden.ts';
import { ensureBuilt, lowbit, lowbitJson, TINY } from './cli-process.ts';

const GOLDEN = goldenPath('higgs/tiny-llama');
let dir: string;
const at = (name: string): string => join(dir, name);

beforeAll(() => {
  ensureBuilt();
  dir = mkdtempSync(join(tmpdir(), 'lowbit-convert-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

it('goes to the portable form and back, and plans what it writes', async () => {
  const plan = await lowbitJson<ConvertModelReport>(['convert', GOLDEN, '--flute', 'portable', '--dry-run']);
  expect([plan.code, existsSync(at('portable'))]).toEqual([0, false]);
  const made = await lowbitJson<ConvertModelReport>(['convert', GOLDEN, '-o', at('portable'), '--flute', 'portable']);
  expect(made.code).toBe(0);
  expect(made.json.files).toEqual(plan.json.files);
  expect(made.json).toMatchObject({ layout: 'higgs', summary: { quantizedLinears: 14, linears: 15 }, notes: [] });
  const inspected = await lowbitJson<InspectReport>(['inspect', at('portable')]);
  expect(inspected.json.quantization.tags[0]).toMatchObject({ tag: 'self_attn.q_proj', format: 'higgs-4-2 g256 h512 portable' });

  const back = await lowbit(['convert', at('portable'), '-o', at('back'), '--flute', '32']);
  expect([back.code, back.stdout]).toEqual([
    0,
    expect.stringMatching(/^Wrote .*\n\nlinears +14 of 15 quantized[\s\S]*Loads in:[\s\S]*\nNext: lowbit inspect/),
  ]);
  expect(Buffer.compare(readFileSync(join(at('back'), 'model.safetensors')), readFileSync(join(GOLDEN, 'model.safetensors')))).toBe(0);
  expect((await lowbit(['inspect', at('back')])).stdout).toMatch(/q_proj +2 +higgs-4-2 g256 h512 t32 /);
});

it('takes what quantize makes, and says which of its layers FLUTE does not pack', async () => {
  expect((await lowbit(['quantize', TINY, '-o', at('tiny'), '-m', 'higgs', '-b', '3', '--rule', 'mlp.*=higgs:b4'])).code).toBe(0);
  const error = await lowbit(['convert', at('tiny'), '-o', at('no'), '--flute', '32']);
  expect([error.code, error.stderr]).toEqual([
    1,
    expect.stringMatching(
      /layers\.0\.self_attn\.k_proj" \(and 23 more\): flute3_p2_t32 needs out_features that are a multiple of 512, got 128 .*\nhint: .*--flute portable/,
    ),
  ]);
  expect(existsSync(at('no'))).toBe(false);
  const made = await lowbit(['convert', at('tiny'), '-o', at('all'), '--flute', 'portable']);
  expect(made.code).toBe(0);
  const ask = ['-p', 'In the beginning', '--max-tokens', '4', '--temp', '0'];
  const texts = [await lowbit(['generate', at('tiny'), ...ask]), await lowbit(['generate', at('all'), ...ask])];
  expect(texts[1]!.stdout).toBe(texts[0]!.stdout);
});

it('says what is missing or wrong', async () => {
  const said = async (...args: string[]): Promise<[number | null, string]> => {
    const { code, stderr } = await lowbit(['convert', ...args]);
    return [code, stderr];
  };
  expect(await said(GOLDEN, '-o', at('x'))).toEqual([2, expect.stringMatching(/needs to be told what to make\nhint: Pass --flute 32/)]);
  expect(await said(GOLDEN, '--flute', '32')).toEqual([2, expect.stringMatching(/needs an output folder/)]);
  expect(await said(GOLDEN, '-o', at('x'), '--flute', '48')).toEqual([2, expect.stringMatching(/one of 32, 64, portable/)]);
  expect(await said(TINY, '-o', at('x'), '--flute', '32')).toEqual([
    1,
    expect.stringMatching(/is not quantized \[ERR_BAD_ARGUMENT\]\nhint/),
  ]);
  expect(await said(GOLDEN, '-o', GOLDEN, '--flute', '32')).toEqual([1, expect.stringMatching(/is the source/)]);
});
