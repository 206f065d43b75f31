import { isLowbitError, type JsonObject, linearTag, resolveRules } from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import { goldenJson } from '../../../fixtures/golden.ts';
import { bitsAndBytesConfig } from './config.ts';
import { fp4, nf4 } from './four-bit.ts';
import { int8 } from './int8.ts';
import { defaultSkipModules, isSkipped } from './skip.ts';

const failure = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    return isLowbitError(error) && error.hint ? `${error.code} ${error.message}` : `no LowbitError with a hint: ${error}`;
  }
  return 'no error';
};

describe('quantization_config', () => {
  interface Case {
    readonly name: string;
    readonly config: JsonObject;
  }
  const checkpoints = goldenJson<{ cases: Case[] }>('bnb/cases.json').cases.filter(({ name }) => name.startsWith('checkpoint-'));

  it.each(checkpoints.map((c) => [c.name, c.config] as const))('of %s is taken and given back', (_, config) => {
    const { quantizer, skipModules } = bitsAndBytesConfig(config);
    const { _load_in_4bit, _load_in_8bit, ...read } = config;
    expect(quantizer.config).toEqual(read);
    expect(quantizer.method).toBe('bitsandbytes');
    expect(skipModules).toBe(null);
    expect(quantizer.format([64, 64], 'f16').kind).toBe(config.load_in_8bit ? 'int8' : 'codebook');
  });

  it('knows four checkpoints', () => expect(checkpoints.length).toBe(4));

  it('is the same in camel case', () => {
    const camel = bitsAndBytesConfig({
      loadIn4bit: true,
      bnb4bitQuantType: 'nf4',
      bnb4bitUseDoubleQuant: true,
      bnb4bitComputeDtype: 'bfloat16',
      bnb4bitQuantStorage: 'bfloat16',
      llmInt8Threshold: 5,
      llmInt8SkipModules: ['lm_head'],
      llmInt8EnableFp32CpuOffload: true,
      llmInt8HasFp16Weight: false,
      loadIn8bit: false,
    });
    const snake = bitsAndBytesConfig({
      load_in_4bit: true,
      bnb_4bit_quant_type: 'nf4',
      bnb_4bit_use_double_quant: true,
      bnb_4bit_compute_dtype: 'bfloat16',
      bnb_4bit_quant_storage: 'bfloat16',
      llm_int8_threshold: 5,
      llm_int8_skip_modules: ['lm_head'],
      llm_int8_enable_fp32_cpu_offload: true,
    });
    expect(camel.quantizer.config).toEqual(snake.quantizer.config);
    expect(camel.quantizer.identity).toBe(snake.quantizer.identity);
    expect(camel.quantizer.format([8, 8], 'f32')).toEqual(nf4({ doubleQuant: true }).format([8, 8], 'f32'));
    expect(camel.quantizer.config).toMatchObject({
      llm_int8_skip_modules: ['lm_head'],
      bnb_4bit_quant_storage: 'bfloat16',
      llm_int8_threshold: 5,
    });
  });

  it('has the defaults of transformers', () => {
    expect(bitsAndBytesConfig({ loadIn4bit: true }).quantizer.config).toEqual(fp4().config);
    expect(bitsAndBytesConfig({ loadIn8bit: true }).quantizer.config).toEqual(int8().config);
    expect(bitsAndBytesConfig({ loadIn8bit: true }).quantizer.format([8, 8], 'f32')).toEqual({ kind: 'int8', threshold: 6 });
    expect(Object.keys(nf4().config)).toEqual([...Object.keys(nf4().config)].sort()); // as in the file
  });

  it.each([
    [null, /options|object/],
    [[], /object/],
    [{}, /both false/],
    [{ load_in_4bit: true, load_in_8bit: true }, /both true/],
    [{ loadIn4bit: true, loadIn8bit: true }, /both true/],
    [{ loadIn4Bit: true }, /no field loadIn4Bit/],
    [{ load_in_4bit: true, bits: 4 }, /no field bits/],
    [{ load_in_4bit: true, loadIn4bit: true }, /load_in_4bit is given twice/],
    [{ load_in_4bit: 1 }, /load_in_4bit cannot be 1/],
    [{ load_in_4bit: true, bnb_4bit_quant_type: 'int4' }, /bnb_4bit_quant_type cannot be "int4"/],
    [{ load_in_4bit: true, bnb_4bit_quant_type: null }, /bnb_4bit_quant_type cannot be null/],
    [{ load_in_4bit: true, bnb_4bit_use_double_quant: 'yes' }, /bnb_4bit_use_double_quant cannot be "yes"/],
    [{ load_in_4bit: true, bnb_4bit_compute_dtype: 'int8' }, /bnb_4bit_compute_dtype cannot be "int8"/],
    [{ load_in_4bit: true, bnb_4bit_quant_storage: 'int4' }, /bnb_4bit_quant_storage cannot be "int4"/],
    [{ load_in_8bit: true, llm_int8_threshold: '6' }, /llm_int8_threshold cannot be "6"/],
    [{ load_in_8bit: true, llm_int8_threshold: -1 }, /llm_int8_threshold cannot be -1/],
    [{ load_in_8bit: true, llm_int8_skip_modules: 'lm_head' }, /llm_int8_skip_modules cannot be "lm_head"/],
    [{ load_in_8bit: true, llm_int8_skip_modules: [1] }, /llm_int8_skip_modules cannot be \[1\]/],
    [{ load_in_8bit: true, llm_int8_enable_fp32_cpu_offload: 0 }, /llm_int8_enable_fp32_cpu_offload cannot be 0/],
    [{ load_in_8bit: true, quant_method: 'hqq' }, /quant_method cannot be "hqq"/],
  ] as [JsonObject, RegExp][])('refuses %j', (config, message) => {
    const what = failure(() => bitsAndBytesConfig(config));
    expect(what).toMatch(/^ERR_BAD_ARGUMENT bitsAndBytesConfig: /);
    expect(what).toMatch(message);
  });

  it('refuses float weights', () => {
    expect(failure(() => bitsAndBytesConfig({ loadIn8bit: true, llmInt8HasFp16Weight: true }))).toMatch(/^ERR_UNSUPPORTED_FORMAT/);
  });
});

describe('modules that transformers skips', () => {
  const paths = [
    'model.layers.1.mlp.up_proj',
    'model.layers.10.mlp.up_proj',
    'model.layers.1.self_attn.q_proj',
    'model.mlp_head',
    'lm_head',
  ];
  const skipped = (modules: string[], release: 4 | 5) => paths.filter((path) => isSkipped(path, modules, release));

  it('release 4 looks at the last name, the whole path, and names anywhere', () => {
    expect(skipped(['lm_head'], 4)).toEqual(['lm_head']);
    expect(skipped(['up_proj'], 4)).toEqual(paths.slice(0, 2));
    expect(skipped(['model.layers.1'], 4)).toEqual([paths[0], paths[2]]);
    expect(skipped(['self_attn'], 4)).toEqual([paths[2]]);
    expect(skipped(['head'], 4)).toEqual([]);
    expect(skipped(['model.lay'], 4)).toEqual([]);
  });

  it('release 5 looks at the start, as an expression, and at the end', () => {
    expect(skipped(['lm_head'], 5)).toEqual(['lm_head']);
    expect(skipped(['model.layers.1'], 5)).toEqual(paths.slice(0, 3)); // 10 starts with 1
    expect(skipped(['head'], 5)).toEqual(['model.mlp_head', 'lm_head']);
    expect(skipped(['self_attn'], 5)).toEqual([]);
    expect(skipped(['.*self_attn'], 5)).toEqual([paths[2]]);
    expect(skipped(['model.layers.\\d+.mlp'], 5)).toEqual(paths.slice(0, 2));
    expect(skipped(['model\\.layers\\.1\\.'], 5)).toEqual([paths[0], paths[2]]);
  });

  it.each(['(a+)+$', 'a{2}', 'x|y', 'x*', '[ab]', `${'a'.repeat(300)}`, '+'])('release 5 refuses %s', (entry) => {
    expect(failure(() => isSkipped('model.x', [entry], 5))).toMatch(/^ERR_BAD_ARGUMENT llm_int8_skip_modules/);
  });

  it('defaults', () => {
    expect(defaultSkipModules()).toEqual(['lm_head']);
    expect(defaultSkipModules({ release: 4, last: 'model.norm' })).toEqual(['lm_head']);
    const tied = ['lm_head', 'model.embed_tokens'];
    expect(defaultSkipModules({ release: 4, tied, last: 'model.norm' })).toEqual([...tied, 'model.norm']);
    expect(defaultSkipModules({ tied: ['model.embed_tokens'], last: 'model.norm' })).toEqual([
      'model.embed_tokens',
      'model.norm',
      'lm_head',
    ]);
    expect(defaultSkipModules({ output: 'embed_out' })).toEqual(['embed_out']);
  });

  it.each([
    ['one name', [paths, { tied: 'lm_head' }], /tied cannot be "lm_head"/],
    ['numbers', [paths, { tied: [1] }], /tied cannot be \[1\]/],
    ['a number', [paths, { output: 5 }], /output cannot be 5/],
    ['a list', [paths, { last: ['lm_head'] }], /last cannot be/],
    ['an unknown option', [paths, { deviceMaps: {} }], /no option deviceMaps/],
    ['null', [paths, null], /options must be a plain object/],
    ['options in a map', [paths, new Map()], /options must be a plain object/],
    ['nothing', [], /paths cannot be undefined/],
    ['a path by itself', ['lm_head'], /paths cannot be "lm_head"/],
    ['paths of numbers', [[1]], /paths cannot be/],
    ['a map in a Map', [paths, { deviceMap: new Map([['', 'cpu']]) }], /deviceMap/],
    ['a map of numbers', [paths, { deviceMap: { '': 0 } }], /deviceMap/],
    ['no map', [paths, { deviceMap: null }], /deviceMap cannot be null/],
    ['an offload of numbers', [paths, { deviceMap: { '': 'cpu' }, offload: [1] }], /offload cannot be \[1\]/],
  ] as [string, [never, never], RegExp][])('rules refuse %s', (_, args, message) => {
    const what = failure(() => bitsAndBytesConfig({ loadIn4bit: true }).rules(...args));
    expect(what).toMatch(/^ERR_BAD_ARGUMENT rules: /);
    expect(what).toMatch(message);
  });

  it('refuse a list that is none', () => {
    expect(failure(() => defaultSkipModules({ tied: 'lm_head' as never }))).toMatch(/^ERR_BAD_ARGUMENT defaultSkipModules: tied/);
    expect(failure(() => isSkipped('lm_head', 'lm_head' as never))).toMatch(/^ERR_BAD_ARGUMENT isSkipped: modules/);
  });

  it('as rules, which leave no linear out', () => {
    const sites = paths.map((path) => ({ path, tag: linearTag(path) }));
    const kept = (config: Parameters<typeof bitsAndBytesConfig>[0], release: 4 | 5 = 5) => {
      const { rules, quantizer } = bitsAndBytesConfig(config);
      // `quantizeCheckpoint` keeps the head unless a rule says otherwise.
      const made = resolveRules(sites, [{ match: 'lm_head', use: 'keep' }, ...rules(paths, { release })], 'keep');
      for (const use of made.values()) expect(use === 'keep' || use === quantizer).toBe(true);
      return [...made].filter(([, use]) => use === 'keep').map(([site]) => site.path);
    };
    expect(kept({ loadIn4bit: true })).toEqual(['lm_head']);
    expect(kept({ loadIn4bit: true, llmInt8SkipModules: [] })).toEqual([]); // a list replaces the default
    expect(kept({ loadIn8bit: true, llmInt8SkipModules: ['model.layers.1'] }, 4)).toEqual([paths[0], paths[2]]);
    expect(kept({ loadIn8bit: true, llmInt8SkipModules: ['model.layers.1'] }, 5)).toEqual(paths.slice(0, 3));
  });
});
