// config.json says little that can be relied on: blocks of every generation, edited and broken ones, beside layers that say everything themselves.

import { cp, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Json, JsonObject, TensorSpec } from '@lowbit/core';
import { describe, expect, test } from 'vitest';
import { goldenJson, goldenPath } from '../../../../fixtures/golden.ts';
import { openCheckpoint } from '../checkpoint.node.ts';
import { failure, folderOf, rawFile, temporaryFolder } from '../testing.node.ts';
import { hqqEvidence } from './hqq-config.ts';

interface Block {
  readonly quant_config: JsonObject;
  readonly quant_method: string;
  readonly skip_modules: Json;
}

const blockOf = (name: string) =>
  goldenJson<{ readonly quantization_config: Block }>(`hqq/checkpoints-hf4/${name}/config.json`).quantization_config;
const uniform = blockOf('uniform-b4-g64');
const perTag = blockOf('per-tag');
const entry = uniform.quant_config as { readonly weight_quant_params: JsonObject };
const weights = entry.weight_quant_params;
/** What the first generation took for its defaults. */
const meta = { nbits: 8, channel_wise: false, group_size: null, optimize: false };
const firstGeneration = { ...entry, weight_quant_params: { ...weights, axis: 0 }, zero_quant_params: meta };
const without = (record: object, key: string) => Object.fromEntries(Object.entries(record).filter(([name]) => name !== key));

/** Block -> the layout that it shows. */
const blocks: readonly (readonly [string, Json | undefined, string])[] = [
  ['as transformers 4.57 writes it', uniform as unknown as Json, 'hqq'],
  ['no block (save_to_safetensors)', undefined, 'hqq-safetensors'],
  ['null', null, 'hqq-safetensors'],
  ['first generation: one setting directly in it', firstGeneration, 'hqq'],
  [
    'first generation: a setting for each tag directly in it',
    { 'self_attn.q_proj': firstGeneration, 'mlp.up_proj': firstGeneration },
    'hqq',
  ],
  ['first generation, wrapped, no quant_method', { quant_config: firstGeneration }, 'hqq'],
  ['first generation, without offload_meta', without(firstGeneration, 'offload_meta') as Json, 'hqq'],
  [
    'another axis, other bits and groups',
    { ...uniform, quant_config: { ...entry, weight_quant_params: { ...weights, nbits: 2, axis: 0, group_size: 7 } } },
    'hqq',
  ],
  ['quantized zeros claimed', { ...uniform, quant_config: { ...entry, zero_quant_params: meta, offload_meta: true } }, 'hqq'],
  ['settings of the wrong types', { ...uniform, quant_config: { ...entry, weight_quant_params: { nbits: 'four', axis: null } } }, 'hqq'],
  ['the settings of another folder, by tag', perTag as unknown as Json, 'hqq'],
  ['no quant_config', { quant_method: 'hqq', skip_modules: ['lm_head'] }, 'hqq'],
  ['quant_config of null', { ...uniform, quant_config: null }, 'hqq'],
  ['no skip_modules', without(uniform, 'skip_modules') as Json, 'hqq'],
  ['skip_modules that name quantized layers', { ...uniform, skip_modules: ['q_proj', 'mlp'] }, 'hqq'],
  ['unknown fields', { ...uniform, version: 3, modules_to_not_convert: [], quant_config: { ...entry, extra: [1] } }, 'hqq'],
  ["vLLM's names of the Python library's plug-ins", { ...uniform, quant_method: 'hqq_gemlite' }, 'hqq'],
];

test.each(blocks)('a block %s: the stored layers are what counts', async (_, block, layout) => {
  await using temp = await temporaryFolder();
  const folder = goldenPath('hqq/checkpoints-hf4/uniform-b4-g64');
  const { quantization_config: __, ...config } = goldenJson<JsonObject>('hqq/checkpoints-hf4/uniform-b4-g64/config.json');
  await cp(join(folder, 'model.safetensors'), join(temp.path, 'model.safetensors'));
  await writeFile(join(temp.path, 'config.json'), JSON.stringify({ ...config, quantization_config: block }));
  await using edited = await openCheckpoint(temp.path);
  await using original = await openCheckpoint(folder);
  expect(edited.layout).toBe(layout);
  expect([...edited.quantized]).toEqual([...original.quantized]);
  expect([...edited.quantized.values()].every(({ format }) => format.kind === 'affine' && 'axis' in format && format.axis === 1)).toBe(
    true,
  );
});

describe('what shows that a checkpoint is of hqq', () => {
  const spec: TensorSpec = { dtype: 'u8', shape: [1] };
  const entries = (...names: string[]) => new Map(names.map((name) => [name, spec]));

  test('the tensors, where config.json says nothing', () => {
    expect(hqqEvidence({}, entries('m.W_q', 'm.encoded_state_dict'))).toBe('encoded');
    expect(hqqEvidence({}, entries('m.W_q', 'm.encoded_state_dict', 'm.lowbit_version'))).toBe('nested');
    expect(hqqEvidence({}, entries('m.W_q', 'm.packing'))).toBe('pickled');
    expect(hqqEvidence({}, entries('m.weight'))).toBeUndefined();
  });

  test.each<[Json, string | undefined]>([
    [{ quant_method: 'lowbit', layout: 'hqq-nested' }, 'nested'],
    [{ quant_method: 'lowbit', layout: 'of a later version' }, undefined],
    [{ quant_method: 'gptq', quant_config: { weight_quant_params: {} } }, undefined],
    [{ bits: 4, group_size: 64 }, undefined],
    [{}, undefined],
    [[], undefined],
    ['hqq', undefined],
    [4, undefined],
    [{ 'mlp.up_proj': { weight_quant_params: null } }, undefined],
    [{ weight_quant_params: [] }, undefined],
    [{ quant_method: null }, undefined],
  ])('the block %j', (block, evidence) => {
    expect(hqqEvidence({ quantization_config: block }, entries('m.W_q'))).toBe(evidence);
  });

  test('a block of the first generation over float weights, which it quantized while loading', async () => {
    await using temp = await temporaryFolder();
    const folder = await folderOf(temp.path, {
      'config.json': JSON.stringify({ quantization_config: { 'self_attn.q_proj': firstGeneration } }),
      'model.safetensors': rawFile('{"m.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}', 16),
    });
    const error = await failure(() => openCheckpoint(folder));
    expect(error.code).toBe('ERR_BAD_CHECKPOINT');
    expect(error.message).toMatch(/says hqq, but no linear is stored in that way/);
    expect(error.hint).toMatch(/quantization_config/);
  });
});
