// Which outputs of a program a step is asked for.

import { LowbitError } from '../spec/errors.ts';
import type { Program } from '../spec/program.ts';

/** The names asked for, each once; all of the program's by default. Throws ERR_BAD_ARGUMENT for a name that the program does not have. */
export function outputNames(program: Pick<Program, 'outputs'>, asked: readonly string[] | undefined): ReadonlySet<string> {
  const all = Object.keys(program.outputs);
  for (const name of asked ?? []) {
    if (!all.includes(name)) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `the program has no output '${name}'`, {
        hint: `Its outputs: ${all.join(', ') || '(none)'}.`,
        details: { name, outputs: all },
      });
    }
  }
  return new Set(asked ?? all);
}
