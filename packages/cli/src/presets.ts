// Recipes with names, chosen by what was measured: docs/quality.md.

import type { ImportanceReport } from './importance.ts';
import { FIGURES } from './preset-figures.ts';
import { type Recipe, recipeText } from './recipe.ts';

/** Presets that `--preset` takes. */
export const PRESETS = ['best4', 'small3', 'tiny2', 'python4'] as const;
/** A name of PRESETS. */
export type PresetName = (typeof PRESETS)[number];

interface Preset {
  readonly recipe: Recipe;
  /** What it is, in the words of its flags. */
  readonly what: string;
  /** What it gains and costs as it is. */
  readonly why: string;
}

const LEAST_SQUARES = { method: 'hqq', group: 64, solver: 'least-squares', importance: 'random-tokens' } as const;

export const PRESET: Readonly<Record<PresetName, Preset>> = {
  best4: {
    recipe: { ...LEAST_SQUARES, bits: 4 },
    what: 'least squares of hqq at 4 bits, weighed by random tokens',
    why: FIGURES.best4,
  },
  small3: {
    recipe: { ...LEAST_SQUARES, bits: 3 },
    what: 'least squares of hqq at 3 bits, weighed by random tokens',
    why: FIGURES.small3,
  },
  tiny2: {
    recipe: { ...LEAST_SQUARES, bits: 2 },
    what: 'least squares of hqq at 2 bits, weighed by random tokens',
    why: `${FIGURES.tiny2}, and SmolLM2 is hardly usable`,
  },
  python4: {
    recipe: { method: 'nf4', group: 64, scale: 'search', importance: 'random-tokens' },
    what: 'nf4 with searched scales, weighed by random tokens',
    why: `${FIGURES.python4}, in the same files`,
  },
};

/** The recipe of a preset. */
export function presetRecipe(name: PresetName): Recipe {
  return PRESET[name].recipe;
}

const INSTEAD: Readonly<Record<ImportanceReport['from'], string>> = {
  'random-tokens': 'random tokens',
  self: 'tokens that the model wrote',
  text: 'tokens of a text',
  weights: 'an estimate from weights',
  none: 'no importance',
};

/** The preset that settings come to, named or not; 4 bits and groups of 64 are what hqq does unasked. */
export function presetOf(recipe: Recipe): PresetName | undefined {
  const text = recipeText(recipe.method === 'hqq' ? { ...PRESET.best4.recipe, solver: 'hqq', importance: 'none', ...recipe } : recipe);
  return PRESETS.find((name) => recipeText(PRESET[name].recipe) === text);
}

/** What a preset came to: flags and fallbacks may have changed it, and then what was measured of it is not said. */
export function presetText(name: PresetName, made: Recipe, from: ImportanceReport['from']): string {
  const { recipe, what, why } = PRESET[name];
  if (presetOf(made) !== name) return `${name}, changed by flags`;
  return from === recipe.importance ? `${name}: ${what}; ${why}` : `${name}, with ${INSTEAD[from]} instead of random tokens`;
}
