// What `lowbit quantize` does where flags leave things out.

import { describe, expect, it } from 'vitest';
import { parseRule, parseUse } from '../parse.ts';
import { hasUseForImportance, recipeOf, sharingImportance, withRecipe } from './quantize-recipe.ts';

const filled = async (flags: object) => {
  const all = { rules: [], ...flags };
  return withRecipe(all, await recipeOf(all));
};

describe('without a method', () => {
  it.each([{}, { bits: 3 }, { bits: 2, group: 32 }, { bits: 8, axis: 0 }, { group: 'none' }])(
    '%o: how best4 finds scales, and the widths that were asked for',
    async (flags) => {
      expect(await filled(flags)).toEqual({
        rules: [],
        ...flags,
        method: 'hqq',
        solver: 'least-squares',
        importance: 'random-tokens',
        isDefault: true,
      });
    },
  );

  it('each half gives way to its flag', async () => {
    expect(await filled({ importance: 'none' })).toMatchObject({ solver: 'least-squares', importance: 'none', isDefault: false });
    expect(await filled({ importance: 'weights' })).toMatchObject({ solver: 'least-squares', importance: 'weights' });
    expect(await filled({ solver: 'hqq' })).toMatchObject({ solver: 'hqq', importance: 'none', isDefault: false });
    expect(await filled({ solver: 'least-squares' })).toMatchObject({ solver: 'least-squares', importance: 'random-tokens' });
  });

  it('nothing is run for what has no use for it', async () => {
    const uses = async (flags: object) => hasUseForImportance(await filled(flags), { solver: 'least-squares' });
    expect(await uses({})).toBe(true);
    expect(await uses({ rules: [parseRule('*.v_proj=nf4')] })).toBe(true);
    expect(await uses({ targetBits: 4.3, methods: ['nf4', 'int8'] })).toBe(false);
    expect(await uses({ targetBits: 4.3, methods: ['nf4', 'hqq'] })).toBe(true);
    expect(await uses({ targetBits: 4.3, choices: ['nf4', 'int8'] })).toBe(false);
    expect(await uses({ targetBits: 4.3, choices: ['nf4:search', 'int8'] })).toBe(true);
    expect(parseUse('nf4:search')).toMatchObject({ scale: 'search' });
  });
});

it('a method that is named is as Python has it, and a preset as it is', async () => {
  expect(await filled({ method: 'hqq' })).toEqual({ rules: [], method: 'hqq', importance: 'none', isDefault: false });
  expect(await filled({ method: 'nf4' })).toEqual({ rules: [], method: 'nf4', importance: 'none', isDefault: false });
  expect(await filled({ preset: 'python4' })).toMatchObject({
    method: 'nf4',
    scale: 'search',
    importance: 'random-tokens',
    isDefault: false,
  });
});

it('a target is shared out by what importance is without feedback', async () => {
  const sharing = async (flags: object) => {
    const all = { rules: [], targetBits: 3.5, feedback: 0.75, ...flags };
    return sharingImportance(all, await recipeOf(all));
  };
  expect(await filled({ targetBits: 3.5, feedback: 0.75 })).toMatchObject({ importance: 'self' });
  expect(await sharing({})).toBe('random-tokens');
  expect(await sharing({ preset: 'small3' })).toBe('random-tokens');
  expect(await sharing({ importance: 'self' })).toBe('self');
  expect(await sharing({ importance: { file: 'a.txt' } })).toEqual({ file: 'a.txt' });
});
