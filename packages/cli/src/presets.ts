// Settings that belong together, chosen by what was measured.

import type { ImportanceFrom, Solver } from './parse.ts';

/** Presets that `--preset` takes. */
export const PRESETS = ['recommended'] as const;
export type PresetName = (typeof PRESETS)[number];

interface Preset {
  readonly solver: Solver;
  readonly importance: ImportanceFrom;
  /** Why, for the report: see docs/choosing.md. */
  readonly why: string;
}

export const PRESET: Readonly<Record<PresetName, Preset>> = {
  recommended: {
    solver: 'least-squares',
    importance: 'random-tokens',
    why: 'least squares weighed by random tokens; KL divergence 0.39 of the solver hqq on SmolLM2, 0.92 on tiny-llama, at 4 bits',
  },
};
