import { describe, expect, it } from 'vitest';
import { type HiggsConfigOptions, higgsConfig } from './config.ts';
import { isSkipped } from './skip.ts';

const paths = ['model.layers.1.mlp.up_proj', 'model.layers.10.mlp.up_proj', 'model.layers.1.self_attn.q_proj', 'lm_head'];
const kept = (options: HiggsConfigOptions, skip = {}): unknown => higgsConfig(options).rules(paths, skip)[1]?.match;

it('has the defaults of Python', () => {
  const { quantizer, modulesToNotConvert } = higgsConfig();
  expect(quantizer.method).toBe('higgs');
  expect(quantizer.config).toEqual({ bits: 4, p: 2, group_size: 256, hadamard_size: 512, modules_to_not_convert: null });
  expect(modulesToNotConvert).toBeNull();
});

it('reads the record of a checkpoint', () => {
  const record = {
    bits: 3,
    group_size: 128,
    hadamard_size: 1024,
    modules_to_not_convert: ['lm_head'],
    p: 1,
    quant_method: 'higgs',
    tune_metadata: { 'model.layers.0.mlp.up_proj': { M: 1, N: 512, K: 1024, template_id: 9 } },
  };
  const { quantizer, modulesToNotConvert } = higgsConfig(record);
  expect(quantizer.config).toEqual({ bits: 3, p: 1, group_size: 128, hadamard_size: 1024, modules_to_not_convert: ['lm_head'] });
  expect(modulesToNotConvert).toEqual(['lm_head']);
  expect(quantizer.format([512, 1024], 'bf16')).toMatchObject({ table: 'higgs-3-1', group: 128, packing: 'flute3_p1_t32' });
});

it('reads the same in camel case, with the same identity', () => {
  const camel = higgsConfig({ bits: 2, groupSize: 64, hadamardSize: 64, modulesToNotConvert: null, tuneMetadata: {} });
  const snake = higgsConfig({ bits: 2, group_size: 64, hadamard_size: 64, modules_to_not_convert: null });
  expect(camel.quantizer.config).toEqual(snake.quantizer.config);
  expect(camel.quantizer.identity).toBe(snake.quantizer.identity);
  expect(camel.quantizer.identity).not.toBe(
    higgsConfig({ bits: 2, groupSize: 64, hadamardSize: 64, modulesToNotConvert: ['x'] }).quantizer.identity,
  );
});

it.each([
  [{ bits: 8 }, /bits cannot be 8/],
  [{ p: '2' }, /p cannot be "2"/],
  [{ group_size: 32 }, /group_size cannot be 32/],
  [{ group_size: 128, hadamard_size: 64 }, /groupSize cannot be 128/],
  [{ hadamard_size: 768 }, /hadamardSize cannot be 768/],
  [{ hadamardSize: null }, /hadamardSize cannot be null/],
  [{ modules_to_not_convert: 'lm_head' }, /modules_to_not_convert cannot be "lm_head"/],
  [{ modules_to_not_convert: ['(a+)+$'] }, /no module name/],
  [{ tune_metadata: [] }, /tune_metadata cannot be/],
  [{ tune_metadata: 'none' }, /tune_metadata cannot be/],
  [{ tune_metadata: { a: 1 } }, /tune_metadata cannot be/],
  [{ quant_method: 'hqq' }, /quant_method cannot be "hqq"/],
  [{ num_bits: 4 }, /there is no field num_bits/],
  [{ groupSize: 64, group_size: 64 }, /group_size is given twice/],
  [[], /must be an object/],
  [null, /must be an object/],
])('refuses %j', (options, message) => {
  expect(() => higgsConfig(options as HiggsConfigOptions)).toThrow(
    expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', message: expect.stringMatching(message), hint: expect.any(String) }),
  );
});

describe('rules', () => {
  it('leave the output embedding and tied modules out by default', () => {
    expect(kept({})).toEqual(['lm_head']);
    expect(kept({}, { output: 'model.layers.1.mlp.up_proj', tied: ['lm_head'] })).toEqual(['model.layers.1.mlp.up_proj', 'lm_head']);
  });

  it('take a list in its place', () => {
    expect(kept({ modulesToNotConvert: [] })).toBeUndefined();
    expect(kept({ modulesToNotConvert: ['q_proj'] })).toEqual(['model.layers.1.self_attn.q_proj']);
    // Not layer 10, which transformers would leave out as well.
    expect(kept({ modulesToNotConvert: ['model.layers.1', 'lm_head'] })).toEqual([paths[0], paths[2], 'lm_head']);
    expect(kept({ modulesToNotConvert: ['model.layers.\\d+.mlp'] })).toEqual([paths[0], paths[1]]);
  });

  it('take no time for an entry that makes a backtracking matcher hang', () => {
    const entry = '\\d+'.repeat(80);
    const path = `${'0'.repeat(5000)}x`;
    // A matcher that goes back would take longer than the machine lives.
    expect(higgsConfig({ modulesToNotConvert: [entry] }).rules([path])).toHaveLength(1);
    expect(isSkipped(path, [entry])).toBe(false);
    expect(isSkipped(`${path.slice(0, -1)}.mlp`, [entry])).toBe(true);
  });

  it('refuse what is no list of paths, and unknown options', () => {
    const { rules } = higgsConfig();
    for (const bad of ['lm_head', [''], [1], null]) expect(() => rules(bad as string[])).toThrow(/paths cannot be/);
    expect(() => rules(paths, { release: 5 } as object)).toThrow(/there is no option release/);
    expect(() => rules(paths, { output: '' })).toThrow(/output cannot be/);
    expect(() => rules(paths, { tied: 'lm_head' as never })).toThrow(/tied cannot be/);
    expect(() => isSkipped('a', 'a' as never)).toThrow(/modules cannot be/);
  });
});

it('takes null for no tune_metadata, as transformers does', () => {
  expect(higgsConfig({ tune_metadata: null }).quantizer.identity).toBe(higgsConfig({}).quantizer.identity);
});
