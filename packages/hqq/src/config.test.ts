import {
  createRuntime,
  isLowbitError,
  linearTag,
  patchLinears,
  type QuantizedLinear,
  type Quantizer,
  quantize,
  type Rule,
  referenceBackend,
  resolveRules,
  type Treatment,
} from '@lowbit/core';
import { seededTensor } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { goldenJson } from '../../../fixtures/golden.ts';
import { baseQuantizeConfig, hqqConfig, type QuantConfigDict } from './config.ts';
import { hqq } from './hqq.ts';
import type { HqqOptions } from './options.ts';

/** Code and message of what `run` throws. */
function thrown(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    return isLowbitError(error) ? `${error.code} ${error.message} | ${error.hint}` : String(error);
  }
  return 'nothing';
}

describe('baseQuantizeConfig', () => {
  it.each<readonly [object, HqqOptions]>([
    [{}, {}],
    [
      { nbits: 3, group_size: 32, axis: 0 },
      { bits: 3, groupSize: 32, axis: 0 },
    ],
    [
      { groupSize: null, viewAsFloat: true },
      { groupSize: null, viewAsFloat: true },
    ],
    [
      { nbits: 1.58, quant_zero: true, quantScale: true },
      { bits: 1.58, quantZero: true, quantScale: true },
    ],
    [{ group_size: undefined }, {}],
  ])('%o is hqq(%o)', (config, options) => {
    expect(baseQuantizeConfig(config).identity).toBe(hqq(options).identity);
    expect(baseQuantizeConfig(config).config).toEqual(hqq(options).config);
  });

  it('has the library in groups of 128 where it offloads, zeros deciding for both', () => {
    const both = hqq({ quantZero: 'groups', quantScale: true }).identity;
    for (const quant_scale of [true, false]) {
      expect(baseQuantizeConfig({ quant_zero: true, quant_scale, offload_meta: true }).identity).toBe(both);
      expect(baseQuantizeConfig({ quant_zero: false, quant_scale, offload_meta: true }).identity).toBe(hqq().identity);
    }
    expect(baseQuantizeConfig({ offload_meta: true }).config.offload_meta).toBe(true);
  });

  it('takes the dictionaries of every golden layer', () => {
    interface Case {
      readonly name: string;
      readonly config: { readonly quant_config?: QuantConfigDict };
    }
    const cases = ['hqq/cases.json', 'hqq/old-0.1.8/cases.json'].flatMap((file) => goldenJson<{ cases: Case[] }>(file).cases);
    const dicts = cases.flatMap(({ config }) =>
      config?.quant_config && 'weight_quant_params' in config.quant_config ? [config.quant_config] : [],
    );
    expect(dicts.length).toBeGreaterThanOrEqual(35);
    for (const dict of dicts) {
      const { config } = baseQuantizeConfig(dict);
      const { weight_quant_params: w } = dict as { weight_quant_params: Record<string, unknown> };
      expect(config).toMatchObject({ ...w });
    }
  });

  it('gives what a dictionary leaves out the defaults of the quantizer, not of the helper', () => {
    const q = baseQuantizeConfig({ weight_quant_params: { nbits: 2 } });
    expect(q.config).toMatchObject({ nbits: 2, group_size: 64, axis: 0, round_zero: false, optimize: true, channel_wise: true });
    const camel = baseQuantizeConfig({ weightQuantParams: { nbits: 4, groupSize: 8, channelWise: false }, zeroQuantParams: null });
    expect(camel.identity).toBe(hqq({ groupSize: 8, axis: 0, roundZero: false, channelWise: false }).identity);
  });

  it.each<readonly [unknown, RegExp]>([
    [{ bits: 4 }, /there is no key bits \| The keys are nbits, group_size, .*camelCase/],
    [{ groupsize: 64 }, /there is no key groupsize/],
    [{ group_size: 64, groupSize: 64 }, /group_size is given twice/],
    [{ nbits: '4' }, /baseQuantizeConfig: nbits cannot be 4/],
    [{ nbits: 7 }, /baseQuantizeConfig: nbits cannot be 7/],
    [{ groupSize: -8 }, /baseQuantizeConfig: group_size cannot be -8/],
    [{ weight_quant_params: { nbits: 7 } }, /baseQuantizeConfig: weight_quant_params: nbits cannot be 7/],
    [{ weight_quant_params: { round_zero: 1 } }, /weight_quant_params: round_zero cannot be 1/],
    [new Map([['nbits', 2]]), /must be an object, not a Map/],
    [{ group_size: 60 }, /group_size cannot be 60 .*multiples of 8/],
    [{ quant_zero: 'true' }, /quant_zero cannot be true/],
    [{ view_as_float: 1 }, /view_as_float cannot be 1/],
    [[], /must be an object/],
    [null, /must be an object/],
    ['4bit', /must be an object, not "4bit"/],
    [{ weight_quant_params: null }, /weight_quant_params: a configuration must be an object/],
    [{ weight_quant_params: { bits: 4 } }, /weight_quant_params: there is no key bits/],
    [{ weight_quant_params: {}, nbits: 4 }, /there is no key nbits/],
    [{ weight_quant_params: {}, scale_quant_params: { nbits: 4 } }, /hqq never makes such scale_quant_params/],
    [
      { weight_quant_params: {}, scale_quant_params: { nbits: 8, channel_wise: false, optimize: false } },
      /never makes such scale_quant_params/,
    ],
    [{ weight_quant_params: {}, offload_meta: 0 }, /offload_meta cannot be 0/],
  ])('refuses %o', (config, message) => {
    const text = thrown(() => baseQuantizeConfig(config as never));
    expect(text).toMatch(/^ERR_BAD_ARGUMENT /);
    expect(text).toMatch(message);
  });
});

const paths = [
  'model.layers.0.self_attn.q_proj',
  'model.layers.0.self_attn.v_proj',
  'model.layers.1.self_attn.v_proj',
  'model.layers.0.mlp.up_proj',
  'model.layers.0.block_sparse_moe.gate',
  'model.layers.0.block_sparse_moe.experts.7.w1',
  'model.layers.0.block_sparse_moe.experts.7.w2',
  'lm_head',
];

/** What the rules make of each path: `nbits`, or keep. */
function treat(rules: readonly Rule[], fallback: Treatment, models = paths): Record<string, unknown> {
  const sites = models.map((path) => ({ path, tag: linearTag(path) }));
  const found = resolveRules(sites, rules, fallback);
  return Object.fromEntries(
    sites.map((site) => {
      const use = found.get(site)!;
      return [site.path.replace('model.layers.', ''), use === 'keep' ? use : (use as Quantizer).config.nbits];
    }),
  );
}

describe('hqqConfig', () => {
  it('is one quantizer for all but lm_head, which a model need not have', () => {
    const { quantizer, rules } = hqqConfig({ nbits: 8, group_size: 128, axis: 0 });
    expect((quantizer as Quantizer).identity).toBe(hqq({ bits: 8, groupSize: 128, axis: 0 }).identity);
    const kinds = treat(rules, 'keep');
    expect(kinds.lm_head).toBe('keep');
    expect(Object.values(kinds).filter((kind) => kind === 8)).toHaveLength(paths.length - 1);
    expect(Object.values(treat(rules, 'keep', paths.slice(0, 3)))).toEqual([8, 8, 8]);
    expect(treat(hqqConfig({ skip_modules: [] }).rules, 'keep').lm_head).toBe(4);
    expect(treat(hqqConfig({ skipModules: null }).rules, 'keep').lm_head).toBe(4);
  });

  it('takes None for what is not given', () => {
    const plain = hqqConfig({ nbits: 2 });
    const { quantizer } = hqqConfig({ nbits: 2, dynamic_config: null, quant_config: null });
    expect((quantizer as Quantizer).identity).toBe((plain.quantizer as Quantizer).identity);
    const perTag = hqqConfig({ dynamic_config: { 'mlp.*': { nbits: 3 } }, quant_config: null });
    expect(treat(perTag.rules, perTag.quantizer)).toMatchObject({ '0.mlp.up_proj': 3, lm_head: 'keep' });
  });

  it('skips every path that a text occurs in, and whole tags', () => {
    const { rules } = hqqConfig({ skip_modules: ['layers.1.', 'moe.ga', 'block_sparse_moe.experts.w2'] });
    expect(treat(rules, 'keep')).toEqual({
      '0.self_attn.q_proj': 4,
      '0.self_attn.v_proj': 4,
      '1.self_attn.v_proj': 'keep',
      '0.mlp.up_proj': 4,
      '0.block_sparse_moe.gate': 'keep',
      '0.block_sparse_moe.experts.7.w1': 4,
      '0.block_sparse_moe.experts.7.w2': 'keep',
      lm_head: 4,
    });
    expect(thrown(() => treat(hqqConfig({ skip_modules: ['vision'] }).rules, 'keep'))).toMatch(
      /^ERR_BAD_ARGUMENT the rule "vision" matches no/,
    );
  });

  it('has settings per tag, experts of a mixture included; what is not named stays', () => {
    const { quantizer, rules } = hqqConfig({
      dynamic_config: {
        'self_attn.v_proj': hqq({ bits: 8 }),
        'mlp.*': { nbits: 3, group_size: 32 },
        'block_sparse_moe.experts.w1': { weight_quant_params: { nbits: 2, group_size: 16, axis: 0 } },
        'block_sparse_moe.experts.w2': null,
      },
    });
    expect(quantizer).toBe('keep');
    expect(treat(rules, quantizer)).toEqual({
      '0.self_attn.q_proj': 'keep',
      '0.self_attn.v_proj': 8,
      '1.self_attn.v_proj': 8,
      '0.mlp.up_proj': 3,
      '0.block_sparse_moe.gate': 'keep',
      '0.block_sparse_moe.experts.7.w1': 2,
      '0.block_sparse_moe.experts.7.w2': 'keep',
      lm_head: 'keep',
    });
  });

  it.each(['uniform-b4-g64', 'per-tag'])('reads the block that transformers wrote: %s', (name) => {
    const { quantization_config: block } = goldenJson<{ quantization_config: object }>(`hqq/checkpoints-hf4/${name}/config.json`);
    const tags = ['q', 'k', 'v', 'o'].map((p) => `self_attn.${p}_proj`).concat(['gate', 'up', 'down'].map((p) => `mlp.${p}_proj`));
    const kinds = treat(hqqConfig(block).rules, 'keep', [...tags.map((tag) => `model.layers.0.${tag}`), 'lm_head']);
    expect(kinds.lm_head).toBe('keep');
    const quant = (block as { quant_config: Record<string, { weight_quant_params: { nbits: number } }> }).quant_config;
    const whole = quant.weight_quant_params as unknown as { nbits: number } | undefined;
    for (const tag of tags) expect(kinds[`0.${tag}`], tag).toBe(whole?.nbits ?? quant[tag]!.weight_quant_params.nbits);
  });

  it.each<readonly [unknown, RegExp]>([
    [{ quant_zero: true }, /hqqConfig: there is no key quant_zero \| The keys are nbits, .*skip_modules/],
    [{ nbits: 4, dynamic_config: { 'mlp.*': {} } }, /settings for all linears beside settings of their own/],
    [{ dynamic_config: {} }, /dynamic_config names no linear/],
    [{ dynamic_config: ['mlp.*'] }, /dynamic_config names no linear/],
    [{ dynamic_config: { 'mlp.*': { bits: 4 } } }, /hqqConfig: mlp\.\*: there is no key bits/],
    [{ dynamic_config: { 'mlp.*': { nbits: 7 } } }, /hqqConfig: mlp\.\*: nbits cannot be 7/],
    [{ dynamic_config: new Map([['mlp.*', {}]]) }, /dynamic_config names no linear/],
    [{ dynamic_config: { 'mlp.*': 4 } }, /hqqConfig: mlp\.\*: a configuration must be an object/],
    [{ skip_modules: 'lm_head' }, /skip_modules cannot be "lm_head"/],
    [{ skip_modules: [''] }, /skip_modules cannot be/],
    [{ quant_method: 'gptq' }, /quant_method is "gptq"/],
    [4, /must be an object, not 4/],
  ])('refuses %o', (config, message) => {
    const text = thrown(() => hqqConfig(config as never));
    expect(text).toMatch(/^ERR_BAD_ARGUMENT /);
    expect(text).toMatch(message);
  });
});

it('patchLinears takes the rules', async () => {
  await using runtime = await createRuntime({ backends: [referenceBackend()] });
  const weights = new Map(
    ['layers.0.self_attn.v_proj', 'layers.0.mlp.up_proj', 'lm_head'].map((path, i) => [path, seededTensor(i, [16, 64])]),
  );
  const placed = new Map<string, QuantizedLinear>();
  const host = {
    linears: () => [...weights].map(([path]) => ({ path, shape: [16, 64] as const })),
    weight: async (path: string) => ({ weight: weights.get(path)! }),
    replace: (path: string, linear: QuantizedLinear) => void placed.set(path, linear),
  };
  const { rules } = hqqConfig({ dynamic_config: { 'self_attn.v_proj': { nbits: 8 }, 'mlp.*': hqq({ bits: 2, groupSize: 16, axis: 0 }) } });
  expect(await patchLinears(host, rules, { runtime })).toEqual(['layers.0.self_attn.v_proj', 'layers.0.mlp.up_proj']);
  for (const [path, options] of [
    ['layers.0.self_attn.v_proj', { bits: 8 }],
    ['layers.0.mlp.up_proj', { bits: 2, groupSize: 16, axis: 0 }],
  ] as const) {
    using linear = placed.get(path)!;
    expect(linear.format).toEqual((await quantize(weights.get(path)!, hqq(options), { metaDtype: 'f16' })).format);
  }
});
