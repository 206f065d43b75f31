import { adapterFor, elements, type HostTensor, type JsonObject, toFloat32 } from '@lowbit/core';
import { describe, expect, test } from 'vitest';
import * as golden from '../../../../fixtures/golden.ts';
import { decoderSites } from '../decoder/modules.ts';
import { ropeOf, ropeParameters } from '../decoder/rope.ts';
import { goldenContents, goldenFolders } from '../testing/memory-checkpoint.ts';
import { defaultAdapters } from './index.ts';
import { llama, llamaSpec } from './llama.ts';

const folders = goldenFolders(golden, 'llama');

const describeFolder = (folder: string, config?: string, observe?: string[]) => {
  const contents = goldenContents(golden, folder, config);
  const read = async (name: string): Promise<HostTensor> => contents.tensors.get(name)!;
  return llama.describe(contents.config, { entries: contents.tensors, read, ...(observe ? { observe } : {}) });
};

describe('config.json in both forms', () => {
  test('there are ten models', () => expect(folders.length).toBe(10));
  test.each(folders)('%s: the same program', async (folder) => {
    expect(await describeFolder(folder, 'config.v5.json')).toEqual(await describeFolder(folder));
  });
});

describe('rotary frequencies against transformers', () => {
  test.each(folders)('%s', (folder) => {
    const name = [...golden.goldenTensors(`models/${folder}/expected.safetensors`).keys()].find((key) => key.endsWith('inv_freq'));
    if (name === undefined) return;
    const expected = golden.goldenTensors(`models/${folder}/expected.safetensors`);
    const { config, tensors } = goldenContents(golden, folder);
    const [rope] = llamaSpec(config, tensors).ropes;
    const inv = toFloat32(expected.get(name)!);
    if (rope!.kind === 'dynamic') {
      const length = expected.get('input_ids')!.shape[1]!;
      const grown = (rope!.factor * length) / rope!.original - (rope!.factor - 1);
      const base = rope!.base * grown ** (rope!.dim / (rope!.dim - 2));
      for (const [i, f] of inv.entries()) expect(Math.abs(base ** ((-2 * i) / rope!.dim) / f - 1)).toBeLessThan(1e-6);
      return;
    }
    if (rope!.kind !== 'fixed') return expect.unreachable();
    expect(rope!.frequencies.length).toBe(inv.length);
    for (const [i, f] of inv.entries()) expect(Math.abs(rope!.frequencies[i]! / f - 1)).toBeLessThan(1e-6);
  });

  const yarn = (more: JsonObject) => ropeOf({ rope_type: 'yarn', rope_theta: 1e4, ...more }, { dim: 64, positions: 4096 });
  test('yarn: factor from the lengths, attention factor given or from mscale', () => {
    expect(yarn({ original_max_position_embeddings: 1024 })).toEqual(yarn({ original_max_position_embeddings: 1024, factor: 4 }));
    expect(yarn({ factor: 4 })).toMatchObject({ scale: 0.1 * Math.log(4) + 1 });
    expect(yarn({ factor: 4, attention_factor: 0.5 })).toMatchObject({ scale: 0.5 });
    expect(yarn({ factor: 4, mscale: 0.7, mscale_all_dim: 0.7 })).toMatchObject({ scale: 1 });
    expect(yarn({ factor: 4, truncate: false })).not.toEqual(yarn({ factor: 4 }));
  });
  test('a null or absent rope_scaling is the default kind', () => {
    const plain = ropeOf(ropeParameters({ rope_theta: 1e4, rope_scaling: null }, 1e4), { dim: 8, positions: 64 });
    expect(plain).toEqual({ kind: 'fixed', frequencies: [1, 0.1, 0.01, 0.001].map((f) => expect.closeTo(f, 12)), scale: 1 });
    expect(ropeOf(ropeParameters({}, 1e4), { dim: 8, positions: 64 })).toEqual(plain);
  });
});

describe('linears', () => {
  test('sites in the order of the model, a tied head left out', () => {
    const { config, tensors } = goldenContents(golden, 'llama-gqa');
    const sites = llama.linears(config, tensors);
    expect(sites.length).toBe(2 * 7 + 1);
    expect(sites[8]).toEqual({ path: 'model.layers.1.self_attn.k_proj', tag: 'self_attn.k_proj', layer: 1, shape: [32, 64], bias: false });
    expect(sites.at(-1)).toMatchObject({ path: 'lm_head', tag: 'lm_head', layer: -1 });
    const tied = goldenContents(golden, 'llama-tied');
    expect(llama.linears(tied.config, tied.tensors).some(({ path }) => path === 'lm_head')).toBe(false);
  });
  test('a tied config with a head in the file keeps the head', () => {
    const { config, tensors } = goldenContents(golden, 'llama-gqa');
    const spec = llamaSpec({ ...config, tie_word_embeddings: true }, tensors);
    expect(decoderSites(spec).at(-1)).toMatchObject({ path: 'lm_head' });
  });
});

describe('programs', () => {
  test('observed tensors become outputs', async () => {
    const { program } = await describeFolder('llama-gqa', undefined, ['hidden.0', 'hidden.2', 'final_norm']);
    expect(Object.keys(program.outputs).sort()).toEqual(['final_norm', 'hidden.0', 'hidden.2', 'logits']);
    await expect(describeFolder('llama-gqa', undefined, ['hidden.3'])).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }),
    );
  });
  test('biases belong to their linears', async () => {
    const { program } = await describeFolder('llama-bias');
    const biased = program.linears.filter(({ bias }) => bias !== undefined);
    expect(biased.length).toBe(14);
    const stored = goldenContents(golden, 'llama-bias').tensors.get('model.layers.1.mlp.up_proj.bias')!;
    const up = biased.find(({ path }) => path === 'model.layers.1.mlp.up_proj')!;
    expect(elements({ dtype: 'u8', data: program.constants[up.bias!]!.data })).toEqual(stored.data);
  });
});

describe('refusals', () => {
  const { config, tensors } = goldenContents(golden, 'llama-gqa');
  const specOf = (change: JsonObject) => () => llamaSpec({ ...config, ...change }, tensors);

  test.each<[string, JsonObject]>([
    ['hidden_size', { hidden_size: '64' }],
    ['hidden_size', { hidden_size: 2 ** 31 }],
    ['hidden_size', { hidden_size: null }],
    ['num_hidden_layers', { num_hidden_layers: 1e9 }],
    ['num_hidden_layers', { num_hidden_layers: 2.5 }],
    ['num_hidden_layers', { num_hidden_layers: -1 }],
    ['vocab_size', { vocab_size: 1e12 }],
    ['num_attention_heads', { num_attention_heads: 0 }],
    ['num_attention_heads', { num_attention_heads: 5, num_key_value_heads: 5 }],
    ['num_key_value_heads', { num_key_value_heads: 3 }],
    ['head_dim', { head_dim: 15 }],
    ['rms_norm_eps', { rms_norm_eps: -1 }],
    ['hidden_act', { hidden_act: 'mish' }],
    ['hidden_act', { hidden_act: 'toString' }],
    ['tie_word_embeddings', { tie_word_embeddings: 'yes' }],
    ['attention_bias', { attention_bias: 1 }],
    ['max_position_embeddings', { max_position_embeddings: 1e15 }],
    ['rope_theta', { rope_theta: 0 }],
    ['rope_scaling', { rope_scaling: [1] }],
    ['factor', { rope_scaling: { rope_type: 'linear', factor: 0 } }],
    ['factor', { rope_scaling: { rope_type: 'dynamic' } }],
    ['low_freq_factor', { rope_scaling: { rope_type: 'llama3', factor: 2 } }],
    ['high_freq_factor', { rope_scaling: { rope_type: 'llama3', factor: 2, low_freq_factor: 4, high_freq_factor: 4 } }],
    ['partial_rotary_factor', { partial_rotary_factor: 2 }],
  ])('%s in %j', (key, change) => {
    expect(specOf(change)).toThrow(expect.objectContaining({ code: 'ERR_BAD_CHECKPOINT', message: expect.stringContaining(key) }));
  });

  test('an unknown rope_type', () => {
    for (const rope_type of ['longrope', 'constructor', 7]) {
      expect(specOf({ rope_scaling: { rope_type, factor: 2 } })).toThrow(
        expect.objectContaining({ code: 'ERR_UNSUPPORTED_ARCH', message: expect.stringContaining('rope_type') }),
      );
    }
  });

  test('an unknown model_type lists the supported ones and the remedy', () => {
    const failure = expect.objectContaining({ code: 'ERR_UNSUPPORTED_ARCH', hint: expect.stringMatching(/llama.*adapters/s) });
    expect(() => adapterFor({ model_type: 'made-up' }, defaultAdapters)).toThrow(failure);
    expect(() => adapterFor({}, defaultAdapters)).toThrow(failure);
    const own = { ...llama, modelTypes: ['made-up'] };
    expect(adapterFor({ model_type: 'made-up' }, [own, ...defaultAdapters])).toBe(own);
  });

  test('missing and misshapen tensors, named with expected and found shape', async () => {
    const read = async (name: string): Promise<HostTensor> => tensors.get(name)!;
    const without = new Map(tensors);
    without.delete('model.layers.1.mlp.up_proj.weight');
    await expect(llama.describe(config, { entries: without, read })).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_TENSOR_MISMATCH', message: 'model.layers.1.mlp.up_proj.weight is missing, expected [80, 64]' }),
    );
    await expect(llama.describe({ ...config, num_key_value_heads: 1 }, { entries: tensors, read })).rejects.toThrow(
      expect.objectContaining({
        code: 'ERR_TENSOR_MISMATCH',
        message: expect.stringContaining('k_proj.weight has shape [32, 64], expected [16, 64] (and 3 more'),
      }),
    );
    await expect(llama.describe({ ...config, attention_bias: true }, { entries: tensors, read })).rejects.toThrow(
      /q_proj\.bias is missing/,
    );
    const short = { ...config, num_hidden_layers: 1 };
    const beyond = /the checkpoint has model\.layers\.1\.\S+, but config\.json says 1 layers/;
    await expect(llama.describe(short, { entries: tensors, read })).rejects.toThrow(beyond);
    expect(() => llama.linears(short, tensors)).toThrow(beyond);
  });
});
