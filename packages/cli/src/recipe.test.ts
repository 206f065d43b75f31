import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it, onTestFinished } from 'vitest';
import { parseRule, type RuleText, ruleText } from './parse.ts';
import { parseRecipe, type Recipe, readRecipe, recipeOptions, recipeText, withoutIdle, writeRecipe } from './recipe.ts';

const recipe = (fields: object) => ({ kind: 'lowbit recipe', version: 1, ...fields });
const folder = (): string => {
  const dir = mkdtempSync(join(tmpdir(), 'lowbit-recipe-'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
};

describe('parseRecipe', () => {
  it('takes numbers as JSON has them, and as text', () => {
    const expected = { method: 'hqq', bits: 4, group: 64, axis: 1, rules: ['lm_head=keep'] };
    expect(parseRecipe(recipe(expected))).toEqual(expected);
    expect(parseRecipe(recipe({ ...expected, bits: '4', group: '64' }))).toEqual(expected);
    expect(parseRecipe(recipe({ method: 'hqq', group: 'none' }))).toEqual({ method: 'hqq', group: 'none' });
  });

  it.each<[string, unknown, RegExp]>([
    ['no object', 'hqq', /is no recipe/],
    ['null', null, /is no recipe/],
    ['another kind', { kind: 'x', version: 1 }, /is no recipe/],
    ['a later version', { ...recipe({ method: 'hqq' }), version: 2 }, /version 2, and this lowbit reads version 1/],
    ['no method', recipe({ bits: 4 }), /names no method/],
    ['a method that there is not', recipe({ method: 'gptq' }), /method: "gptq" is not one of hqq/],
    ['a field that there is not', recipe({ method: 'hqq', bit: 4 }), /no field "bit" that lowbit knows/],
    ['__proto__', JSON.parse('{"kind":"lowbit recipe","version":1,"method":"hqq","__proto__":{"bits":4}}'), /no field "__proto__"/],
    ['bits that there are not', recipe({ method: 'hqq', bits: 7 }), /bits: "7" is not one of/],
    ['bits that are a list', recipe({ method: 'hqq', bits: [4] }), /bits: \[4\] is not a number or a text/],
    ['a word for a flag', recipe({ method: 'nf4', doubleQuant: 'yes' }), /doubleQuant: "yes" is not true or false/],
    ['rules that are none', recipe({ method: 'hqq', rules: 'x' }), /rules: "x" is not a list of rules/],
    ['a rule that is none', recipe({ method: 'hqq', rules: ['lm_head'] }), /rules: "lm_head" is not a rule/],
    ['a setting of another method', recipe({ method: 'nf4', bits: 4 }), /gives bits, which nf4 does not have/],
    ['settings that the method refuses', recipe({ method: 'higgs', bits: 8 }), /the recipe: /],
    ['importance for nothing', recipe({ method: 'hqq', importance: 'random-tokens' }), /importance that nothing uses/],
    ['importance that is none', recipe({ method: 'hqq', solver: 'least-squares', importance: 'noise' }), /importance: "noise" is not/],
    ['a hash that is none', recipe({ method: 'hqq', solver: 'least-squares', importance: { file: 'a', sha256: '../x' } }), /importance: /],
  ])('refuses %s', (_what, value, message) => {
    let thrown: unknown;
    try {
      parseRecipe(value);
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
    expect((thrown as Error).message).toMatch(message);
  });

  it('names the field that was meant', () => {
    expect(() => parseRecipe(recipe({ method: 'hqq', sover: 'hqq' }))).toThrow(
      expect.objectContaining({ hint: 'Did you mean solver?', details: { recipe: 'the recipe', field: 'sover' } }),
    );
  });
});

it('what no layer got a use for is left out, so that the recipe can be read again', () => {
  const chosen: Recipe = { method: 'hqq', doubleQuant: true, axis: 1, importance: 'weights', rules: ['a=hqq:b8:g64'] };
  expect(() => parseRecipe(JSON.parse(recipeText(chosen)))).toThrow('doubleQuant');
  const kept = withoutIdle(chosen);
  expect(kept).toEqual({ method: 'hqq', axis: 1, rules: ['a=hqq:b8:g64'] });
  expect(parseRecipe(JSON.parse(recipeText(kept)))).toEqual(kept);
  const used: Recipe = { ...chosen, rules: ['a=nf4:g64:search'] };
  expect(withoutIdle(used)).toEqual(used);
  expect(parseRecipe(JSON.parse(recipeText(used)))).toEqual(used);
});

it('rules are written as they are read', () => {
  const optional = <T>(value: fc.Arbitrary<T>) => fc.option(value, { nil: undefined });
  const hqq = fc.record({
    bits: optional(fc.constantFrom(...([8, 6, 5, 4, 3, 2, 1.58, 1] as const))),
    group: optional(fc.constantFrom(64, 'none' as const)),
    axis: optional(fc.constantFrom(0 as const, 1 as const)),
    solver: optional(fc.constantFrom('hqq' as const, 'least-squares' as const)),
  });
  const nf4 = fc.record({
    doubleQuant: optional(fc.constant(true)),
    scale: optional(fc.constantFrom('absmax' as const, 'search' as const)),
  });
  const higgs = fc.record({
    bits: optional(fc.constantFrom(...([2, 3, 4] as const))),
    p: optional(fc.constantFrom(...([1, 2] as const))),
    hadamardSize: optional(fc.constant(256)),
  });
  const use: fc.Arbitrary<RuleText['use']> = fc.oneof(
    fc.constant('keep' as const),
    hqq.map((own) => ({ method: 'hqq' as const, ...own })),
    nf4.map((own) => ({ method: 'nf4' as const, ...own })),
    higgs.map((own) => ({ method: 'higgs' as const, ...own })),
    fc.record({ threshold: optional(fc.constant(2.5)) }).map((own) => ({ method: 'int8' as const, ...own })),
  );
  fc.assert(
    fc.property(fc.constantFrom('lm_head', '*.v_proj', 'model.layers.{0,1}.**'), use, (match, given) => {
      const rule = { match, use: given };
      expect(parseRule(ruleText(rule))).toEqual(rule);
    }),
    { seed: 11 },
  );
});

it('equal recipes are equal texts, whatever the order of fields, and what is left out is not written', () => {
  const a: Recipe = { method: 'hqq', bits: 3, solver: 'least-squares', importance: 'none', rules: [] };
  const b: Recipe = { solver: 'least-squares', bits: 3, method: 'hqq' };
  expect(recipeText(a)).toBe(recipeText(b));
  expect(JSON.parse(recipeText(a))).toEqual({ kind: 'lowbit recipe', version: 1, method: 'hqq', bits: 3, solver: 'least-squares' });
});

it('a text for importance goes with the recipe, and is the one that it was saved with', async () => {
  const dir = folder();
  const text = join(dir, 'text.txt');
  const file = join(dir, 'a.json');
  writeFileSync(text, 'It was a fine morning.');
  await writeRecipe(file, { method: 'hqq', solver: 'least-squares', importance: { file: text } });
  expect(JSON.parse(readFileSync(file, 'utf8')).importance).toEqual({ file: 'text.txt', sha256: expect.stringMatching(/^[0-9a-f]{64}$/) });
  const read = await readRecipe(file);
  expect(read.importance).toMatchObject({ file: text });
  expect((await recipeOptions(read)).importance).toEqual({ text: 'It was a fine morning.' });
  writeFileSync(text, 'It was a foul morning.');
  await expect(readRecipe(file)).rejects.toThrow(
    expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', message: expect.stringContaining('is not the text') }),
  );
  rmSync(text);
  await expect(readRecipe(file)).rejects.toThrow(expect.objectContaining({ code: 'ERR_NOT_FOUND' }));
});

it('a file that is no recipe is named', async () => {
  const file = join(folder(), 'a.json');
  writeFileSync(file, '{');
  await expect(readRecipe(file)).rejects.toThrow(/--recipe: .*a\.json is not JSON/);
  writeFileSync(file, '[]');
  await expect(readRecipe(file)).rejects.toThrow(/--recipe: .*a\.json is no recipe/);
});
