// Lists of modules that stay unquantized, such as `llm_int8_skip_modules`: what an entry means to each program that reads them.
//
//   transformers 4   the last component is the entry, or `entry.` occurs anywhere in the path, or the path is the entry
//   ends             the path ends with the entry: transformers before 4.50 for `modules_to_not_convert` of HIGGS
//   transformers 5   the entry, as a regular expression, matches the beginning of the path (so `model.layers.1` is also `model.layers.10`), or the path
//                    ends with it
//   components       the entry, as such an expression, matches whole leading components of the path (`model.layers.1` is not `model.layers.10`), or the path
//                    ends with it: `modules_to_not_convert` of HIGGS here, where what is meant counts and not what one release makes of it
//   vLLM             the entry is a component of the path, or the path up to a dot
//
// Lists come from strangers' files: an expression is followed by a machine of our own, in time that grows with entry times path.

import type { Quantizer, Rule } from '@lowbit/core';

/** Whose skip rules. */
export type SkipReader = 'ends' | 'components' | 'transformers 4' | 'transformers 5' | 'vLLM';

const MOST_CHARACTERS = 256;

/**
 * Which paths an entry keeps unquantized for a reader. Undefined for an entry that 'transformers 5' and 'components' would take for more of a regular expression than
 * letters, digits, `_`, `-`, `.`, `\.`, `.*`, `\d` and `\d+`, or that has over 256 characters.
 */
export function skipTest(entry: string, reader: SkipReader): ((path: string) => boolean) | undefined {
  if (reader === 'ends') return (path) => path.endsWith(entry);
  const beginning = `${entry}.`;
  if (reader === 'transformers 4') return (path) => path === entry || lastName(path) === entry || path.includes(beginning);
  if (reader === 'vLLM') return (path) => path === entry || path.startsWith(beginning) || path.split('.').includes(entry);
  const steps = expression(entry);
  const whole = reader === 'components';
  return steps && ((path) => path.endsWith(entry) || matchesStart(steps, path, { whole }));
}

/** Rules that keep the linears of `paths` that `skips` names, and treat all others with `quantizer`: `lm_head`, too, which is kept by default. */
export function skippingRules(paths: Iterable<string>, quantizer: Quantizer, skips: (path: string) => boolean): Rule[] {
  const skipped = [...paths].filter(skips);
  return [{ match: '**', use: quantizer }, ...(skipped.length > 0 ? [{ match: skipped, use: 'keep' } as const] : [])];
}

const lastName = (path: string): string => path.slice(path.lastIndexOf('.') + 1);

/** A step takes a character that it accepts; one of `many` stays, and may take none. */
interface Step {
  readonly accepts: (character: string) => boolean;
  readonly many: boolean;
}

const TOKENS = /\\d\+|\\d|\\\.|\.\*|[\w.-]/y;

function expression(entry: string): readonly Step[] | undefined {
  if (entry.length > MOST_CHARACTERS) return undefined;
  const steps: Step[] = [];
  for (let at = 0; at < entry.length; at = TOKENS.lastIndex) {
    TOKENS.lastIndex = at;
    const token = TOKENS.exec(entry)?.[0];
    if (token === undefined) return undefined;
    if (token === '\\d+') steps.push({ accepts: isDigit, many: false }, { accepts: isDigit, many: true });
    else if (token === '\\d') steps.push({ accepts: isDigit, many: false });
    else if (token === '.' || token === '.*') steps.push({ accepts: isNoLineEnd, many: token === '.*' });
    else steps.push({ accepts: (character) => character === token.at(-1), many: false });
  }
  return steps;
}

const isDigit = (character: string): boolean => /\d/.test(character);
const isNoLineEnd = (character: string): boolean => character !== '\n';

/** Follows all ways through the steps at once. `whole`: they have to end where a component does. */
function matchesStart(steps: readonly Step[], path: string, { whole }: { readonly whole: boolean }): boolean {
  let states = new Set<number>();
  enter(steps, states, 0);
  for (const character of path) {
    if (states.has(steps.length) && (!whole || character === '.')) return true;
    const next = new Set<number>();
    for (const at of states) if (steps[at]?.accepts(character)) enter(steps, next, steps[at].many ? at : at + 1);
    states = next;
  }
  return states.has(steps.length);
}

/** Reaches a step, and those after it where it may take no character. */
function enter(steps: readonly Step[], states: Set<number>, first: number): void {
  for (let at = first; !states.has(at); at++) {
    states.add(at);
    if (steps[at]?.many !== true) return;
  }
}
