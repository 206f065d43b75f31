// A checkpoint quantized as the quantization_config of another says, with transformers' choice of modules.

import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bitsAndBytesConfig } from '@lowbit/bnb';
import type { JsonObject } from '@lowbit/core';
import { openCheckpoint, quantizeCheckpoint } from '@lowbit/hub';
import { llama } from '@lowbit/models';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { goldenPath } from '../fixtures/golden.ts';

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'lowbit-'));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

async function make(name: string, fields: JsonObject) {
  const { quantizer, rules } = bitsAndBytesConfig(fields);
  await using source = await openCheckpoint(goldenPath('bnb/checkpoints/float'));
  const paths = llama.linears(source.config, source.source.entries).map(({ path }) => path);
  const out = join(dir, name);
  const { plan } = await quantizeCheckpoint(source, { out, quantizer, rules: rules(paths), adapters: [llama] });
  return { out, kept: plan.linears.filter(({ use }) => use === 'keep').map(({ site }) => site.path) };
}

it.each(['nf4', 'fp4', 'int8'])('the config of %s makes its files, byte for byte', async (name) => {
  const folder = goldenPath(`bnb/checkpoints/${name}`);
  const config = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8')) as { quantization_config: JsonObject };
  const { out } = await make(name, config.quantization_config);
  for (const file of ['model.safetensors', 'config.json']) {
    expect(Buffer.compare(await readFile(join(out, file)), await readFile(join(folder, file))), file).toBe(0);
  }
});

it('a list of modules takes the place of the default and is written down', async () => {
  const { out, kept } = await make('listed', {
    load_in_4bit: true,
    bnb_4bit_quant_type: 'nf4',
    llm_int8_skip_modules: ['lm_head', 'model.layers.0.mlp'],
  });
  expect(kept).toEqual(['gate', 'up', 'down'].map((name) => `model.layers.0.mlp.${name}_proj`).concat('lm_head'));
  await using result = await openCheckpoint(out);
  expect((result.config.quantization_config as JsonObject).llm_int8_skip_modules).toContain('model.layers.0.mlp');
  expect([...result.quantized.keys()].some((path) => kept.includes(path))).toBe(false);

  expect((await make('with-head', { load_in_8bit: true, llm_int8_skip_modules: [] })).kept).toEqual([]);
});
