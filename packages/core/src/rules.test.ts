import { afterEach, describe, expect, it, vi } from 'vitest';
import { goldenJson } from '../../../fixtures/golden.ts';
import { linearTag, linearTags, resolveRules } from './rules.ts';
import { isLowbitError } from './spec/errors.ts';
import type { Quantizer } from './spec/quantizer.ts';

const site = (path: string) => ({ path, tag: linearTag(path) });
const named = (method: string) => ({ method, quantize: () => {}, format: () => {} }) as unknown as Quantizer;

describe('linearTag', () => {
  it('drops model, layers and numbers', () => {
    expect(linearTag('model.layers.31.self_attn.k_proj')).toBe('self_attn.k_proj');
    expect(linearTag('model.layers.0.block_sparse_moe.experts.7.w2')).toBe('block_sparse_moe.experts.w2');
    expect(linearTag('lm_head')).toBe('lm_head');
    expect(linearTag('model')).toBe('model');
    expect(linearTags(['model.layers.0.a.b', 'model.layers.1.a.b', 'lm_head'])).toEqual(['a.b', 'lm_head']);
  });

  it('agrees with the Python library', () => {
    const { cases } = goldenJson<{ cases: { name: string; tags?: Record<string, string> }[] }>('hqq/cases.json');
    const pairs = Object.entries(cases.find((c) => c.name === 'linear-tags')!.tags!);
    expect(pairs.length).toBe(8);
    for (const [name, tag] of pairs) expect(linearTag(name), name).toBe(tag);
  });
});

describe('resolveRules', () => {
  const sites = ['model.layers.0.self_attn.q_proj', 'model.layers.0.mlp.up_proj', 'model.layers.1.mlp.up_proj', 'lm_head'].map(site);
  const a = named('a');
  const b = named('b');

  it('lets the last match win and the fallback fill in', () => {
    const found = resolveRules(
      sites,
      [
        { match: 'mlp.*', use: b },
        { match: ['lm_head', 'model.layers.1.**'], use: 'keep' },
      ],
      a,
    );
    expect(sites.map((s) => found.get(s))).toEqual([a, b, 'keep', 'keep']);
  });

  it.each([
    { match: /mlp/, use: 'keep' },
    { use: 'keep' },
    { match: 'mlp.*', use: 'skip' },
    { match: [], use: 'keep' },
    { match: 'mlp.*', by: 'path', use: 'keep' },
    { match: '', by: 'substring', use: 'keep' },
    { match: 'mlp.*', use: { quantize: true, format: true } },
    null,
  ])('refuses the rule %j', (rule) => {
    expect(() => resolveRules(sites, [rule as never], a)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
  });

  it.each([
    ['a function', () => []],
    ['text', 'mlp.*'],
    ['a rule by itself', { match: 'mlp.*', use: 'keep' }],
    ['null', null],
  ])('refuses %s in the place of rules', (_, rules) => {
    expect(() => resolveRules(sites, rules as never, a)).toThrow(
      expect.objectContaining({
        code: 'ERR_BAD_ARGUMENT',
        message: expect.stringMatching(/^rules must be an array/),
        hint: expect.any(String),
      }),
    );
  });

  it.each([
    ['its settings', { bits: 4 }],
    ['text', 'skip'],
    ['nothing', undefined],
    ['half of one', { quantize: () => {} }],
  ])('refuses %s in the place of a quantizer', (_, quantizer) => {
    expect(() => resolveRules(sites, [], quantizer as never)).toThrow(
      expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', message: expect.stringContaining('quantizer'), hint: expect.any(String) }),
    );
  });

  it('matches plain text anywhere in a path, or a whole tag', () => {
    const experts = ['model.layers.0.experts.7.w1', 'model.layers.0.experts.7.w2', 'model.layers.0.{a}'].map(site);
    const kept = (match: string) => experts.map((s) => resolveRules(experts, [{ match, by: 'substring', use: 'keep' }], a).get(s));
    expect(kept('ers.0')).toEqual(['keep', 'keep', 'keep']);
    expect(kept('experts.w2')).toEqual([a, 'keep', a]);
    expect(kept('{a}')).toEqual([a, a, 'keep']);
    expect(() => kept('*')).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
  });

  it('lets an optional rule match nothing', () => {
    expect(resolveRules(sites, [{ match: 'vision.*', optional: true, use: 'keep' }], a).get(sites[0]!)).toBe(a);
  });

  it('knows the path within a layer: experts by their number, layers under any root', () => {
    const paths = [
      'model.layers.0.block_sparse_moe.experts.3.w1',
      'model.layers.1.block_sparse_moe.experts.0.w1',
      'gpt_neox.layers.3.attention.query_key_value',
      'h.0.mlp.dense_h_to_4h',
      'embed_out',
    ].map(site);
    const kept = (match: string) =>
      paths.flatMap((s) => (resolveRules(paths, [{ match, use: 'keep' }], a).get(s) === 'keep' ? [s.path] : []));
    expect(kept('block_sparse_moe.experts.*.w1')).toEqual(paths.slice(0, 2).map(({ path }) => path));
    expect(kept('block_sparse_moe.experts.3.w1')).toEqual([paths[0]!.path]);
    expect(kept('attention.query_key_value')).toEqual([paths[2]!.path]);
    expect(kept('mlp.*')).toEqual([paths[3]!.path]);
    expect(kept('embed_out')).toEqual([paths[4]!.path]);
  });

  it('refuses a rule that matches nothing, and lists the tags', () => {
    const attempt = () => resolveRules(sites, [{ match: 'self_attn.qproj', use: 'keep' }], a);
    expect(attempt).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', hint: expect.stringContaining('self_attn.q_proj') }));
  });
});

it('isLowbitError knows errors by their marker, not by class', () => {
  const foreign = Object.assign(new Error('x'), { [Symbol.for('lowbit.error')]: true, code: 'ERR_IO' });
  expect(isLowbitError(foreign, 'ERR_IO')).toBe(true);
  expect(isLowbitError(foreign, 'ERR_LIMIT')).toBe(false);
  expect(isLowbitError(new Error('x'))).toBe(false);
  expect(isLowbitError(null)).toBe(false);
});

describe('rules on paths', () => {
  afterEach(() => vi.unstubAllGlobals());

  /** How many state sets of automata a call makes, which is what matching a glob costs, and its result. */
  function counted<T>(run: () => T): { readonly made: number; readonly result: T } {
    let made = 0;
    const Real = Uint8Array;
    vi.stubGlobal(
      'Uint8Array',
      class extends Real {
        constructor(length: number) {
          super(length);
          made++;
        }
      },
    );
    const result = run();
    vi.unstubAllGlobals();
    return { made, result };
  }

  const sites = Array.from({ length: 2000 }, (_, i) => site(`model.layers.${i}.mlp.up_proj`));
  const paths = sites.map(({ path }) => path);
  const [a, b] = [named('a'), named('b')];

  it('are looked up, however many they are: as a list, as rules of their own, in braces', () => {
    const list = counted(() => resolveRules(sites, [{ match: paths, use: b }], a));
    expect(list.made).toBe(0);
    expect([...list.result.values()].every((use) => use === b)).toBe(true);
    const rules = paths.map((match, i) => ({ match, use: i % 2 === 0 ? b : ('keep' as const) }));
    const each = counted(() => resolveRules(sites, rules, a));
    expect(each.made).toBe(0);
    expect([...each.result.values()].slice(0, 3)).toEqual([b, 'keep', b]);
    expect(counted(() => resolveRules(sites, [{ match: 'model.layers.{1,2,3}.mlp.up_proj', use: b }], a)).made).toBe(0);
  });

  it('leave the work to the globs beside them', () => {
    const match = [...paths.slice(0, 1000), 'model.layers.1??.mlp.*'];
    const { made } = counted(() => resolveRules(sites, [{ match, use: b }], a));
    expect(made).toBeGreaterThan(0);
    expect(made).toBeLessThanOrEqual(sites.length * 4); // two sets for the path and two for the tag of a site
  });
});
