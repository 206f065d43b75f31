import { expect, it } from 'vitest';
import { makeQuantizer } from './methods.ts';
import { presetText } from './preset-of.ts';
import { PRESET, PRESETS, presetRecipe } from './presets.ts';
import { parseRecipe, recipeText, settingsOf } from './recipe.ts';

it('a preset is told with its figures only where nothing changed it', () => {
  const best = presetRecipe('best4');
  expect(presetText('best4', best, 'random-tokens')).toBe(`best4: ${PRESET.best4.what}; ${PRESET.best4.why}`);
  expect(presetText('best4', { ...best, solver: 'hqq', importance: 'none' }, 'none')).toBe('best4, changed by flags');
  expect(presetText('best4', { ...best, rules: ['*.v_proj=hqq:b8:g64'] }, 'random-tokens')).toBe('best4, changed by flags');
  expect(presetText('best4', best, 'weights')).toBe('best4, with an estimate from weights instead of random tokens');
  expect(presetText('best4', best, 'none')).toBe('best4, with no importance instead of random tokens');
});

it.each(PRESETS)('%s is a recipe of one method that reads back as it is', (name) => {
  const recipe = presetRecipe(name);
  expect(parseRecipe(JSON.parse(recipeText(recipe)))).toEqual(recipe);
  expect(makeQuantizer(recipe.method, settingsOf(recipe)).usesImportance).not.toBe(false);
  expect(recipe.rules).toBeUndefined();
});
