// Where the linear layers of a loaded model are: in whose program, and which.

import type { Program } from '@lowbit/core';
import type { LanguageModelParts } from './parts.ts';
import type { Runner } from './runner.ts';

export interface Place {
  readonly runner: Runner;
  readonly program: Program;
  readonly index: number;
}

/** Of every linear of the programs, by path. */
export function placesOf({ encoder, tower, runner, description }: LanguageModelParts): ReadonlyMap<string, Place> {
  const all = [
    { runner, program: description.program },
    ...(encoder ? [{ runner: encoder.runner, program: encoder.description.program }] : []),
    ...(tower ? [{ runner: tower.runner, program: tower.description.program }] : []),
  ];
  return new Map(all.flatMap((part) => part.program.linears.map(({ path }, index) => [path, { ...part, index }] as const)));
}
