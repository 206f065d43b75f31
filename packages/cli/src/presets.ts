// Settings that belong together, chosen by what was measured.

import type { ImportanceReport } from './importance.ts';
import type { ImportanceFrom, Solver } from './parse.ts';

/** Presets that `--preset` takes. */
export const PRESETS = ['recommended'] as const;
export type PresetName = (typeof PRESETS)[number];

interface Preset {
  readonly solver: Solver;
  readonly importance: ImportanceFrom;
  /** What it gains as it is, for the report: see docs/choosing.md. */
  readonly why: string;
}

export const PRESET: Readonly<Record<PresetName, Preset>> = {
  recommended: {
    solver: 'least-squares',
    importance: 'random-tokens',
    why: 'KL divergence 0.39 of the solver hqq on SmolLM2, 0.92 on tiny-llama, at 4 bits',
  },
};

const WEIGHED: Readonly<Record<ImportanceReport['from'], string>> = {
  'random-tokens': 'weighed by random tokens',
  self: 'weighed by tokens that the model wrote',
  text: 'weighed by tokens of a text',
  weights: 'weighed by an estimate from weights',
  none: 'not weighed',
};

/** What a preset came to: flags and fallbacks may have changed it, and then what was measured of it is not said. */
export function presetText(name: PresetName, solver: Solver | undefined, from: ImportanceReport['from']): string {
  const preset = PRESET[name];
  const isWhole = solver === preset.solver && from === preset.importance;
  const done = solver === 'least-squares' ? `least squares ${WEIGHED[from]}` : 'the solver hqq';
  return `${name}${isWhole ? '' : ', changed'}: ${done}${isWhole ? `; ${preset.why}` : ''}`;
}
