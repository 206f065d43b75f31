// Recipes with names, chosen by what was measured: docs/quality.md.

import { FIGURES } from './preset-figures.ts';
import type { Recipe } from './recipe.ts';

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
