// Which preset a recipe is, and what it came to: apart from the presets themselves, for --help names those and needs nothing that makes quantizers.

import type { ImportanceReport } from './importance.ts';
import { PRESET, PRESETS, type PresetName } from './presets.ts';
import { type Recipe, recipeText } from './recipe.ts';

/** The preset that settings come to, named or not; 4 bits and groups of 64 are what hqq does unasked. */
export function presetOf(recipe: Recipe): PresetName | undefined {
  const text = recipeText(recipe.method === 'hqq' ? { ...PRESET.best4.recipe, solver: 'hqq', importance: 'none', ...recipe } : recipe);
  return PRESETS.find((name) => recipeText(PRESET[name].recipe) === text);
}

const INSTEAD: Readonly<Record<ImportanceReport['from'], string>> = {
  'random-tokens': 'random tokens',
  self: 'tokens that the model wrote',
  text: 'tokens of a text',
  weights: 'an estimate from weights',
  none: 'no importance',
};

/** What a preset came to: flags and fallbacks may have changed it, and then what was measured of it is not said. */
export function presetText(name: PresetName, made: Recipe, from: ImportanceReport['from']): string {
  const { recipe, what, why } = PRESET[name];
  if (presetOf(made) !== name) return `${name}, changed by flags`;
  return from === recipe.importance ? `${name}: ${what}; ${why}` : `${name}, with ${INSTEAD[from]} instead of random tokens`;
}
