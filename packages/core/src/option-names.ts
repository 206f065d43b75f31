// Names of options: one that nobody knows is a mistake, and must not mean the default of another.

import { isPlainRecord } from './record.ts';
import { LowbitError } from './spec/errors.ts';

/**
 * Throws ERR_BAD_ARGUMENT unless `options` is a plain object of known names; the hint says which name is nearest. `call` stands in the message, `prefix`
 * before names of options within options (`solver.`).
 *
 * @example
 * checkOptionNames('nf4', { blocksize: 64 }, ['blockSize', 'doubleQuant']); // nf4: there is no option blocksize. hint: Did you mean blockSize? ...
 */
export function checkOptionNames(call: string, options: unknown, known: Iterable<string>, prefix = ''): void {
  const names = [...known];
  const all = `The options are ${names.map((name) => prefix + name).join(', ')}.`;
  if (!isPlainRecord(options)) throw new LowbitError('ERR_BAD_ARGUMENT', `${call}: options must be a plain object`, { hint: all });
  const unknown = Object.keys(options).find((name) => !names.includes(name));
  if (unknown === undefined) return;
  const near = nearestName(unknown, names);
  throw new LowbitError('ERR_BAD_ARGUMENT', `${call}: there is no option ${prefix}${unknown}`, {
    hint: near === undefined ? all : `Did you mean ${prefix}${near}? ${all}`,
    details: { option: prefix + unknown, known: names },
  });
}

/** Longest name that is compared; what is longer is no misspelling. */
const LONGEST = 64;

/** The name that was probably meant: the one with the fewest changes, at most one for every three letters. Case and `_` do not count. */
export function nearestName(name: string, known: readonly string[]): string | undefined {
  if (name.length > LONGEST) return undefined;
  const plain = (text: string) => text.replaceAll('_', '').toLowerCase();
  let best: string | undefined;
  let fewest = Number.POSITIVE_INFINITY;
  for (const candidate of known) {
    const changes = editDistance(plain(name), plain(candidate));
    if (changes < fewest && changes <= Math.max(1, Math.floor(candidate.length / 3))) [best, fewest] = [candidate, changes];
  }
  return best;
}

/** Letters to put in, take out or change to make `b` of `a`. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}
