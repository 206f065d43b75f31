// `llm_int8_skip_modules`: how three readers decide which linears are not quantized, and a list that means the same to all of them.
//
//   transformers 4   the last component is in the list, or `entry.` occurs anywhere in the name, or the name is the entry
//   transformers 5   the entry, as a regular expression, matches the beginning of the name, or the name ends with it
//   vLLM             the entry is a component of the name, or the name up to a dot
//
// Null stands for the defaults of transformers, which keep the head alone.

import type { PlannedLinear } from '@lowbit/core';

export interface SkipList {
  /** Value of the field. */
  readonly modules: readonly string[] | null;
  /** Kept linears that no entry can name for all readers without naming a quantized one for some. */
  readonly unskippable: readonly string[];
}

/** `wanted`: entries that the user asked for; those that would skip a quantized linear are left out. */
export function skipList(linears: readonly PlannedLinear[], wanted: readonly string[] | undefined): SkipList {
  const quantized = linears.filter(({ use }) => use !== 'keep').map(({ site }) => site.path);
  const kept = linears.filter(({ use }) => use === 'keep').map(({ site }) => site.path);
  const harmless = (entry: string) => !quantized.some((path) => rules(entry, path).some(Boolean));
  const names = (entry: string, path: string) => rules(entry, path).every(Boolean);
  const headQuantized = quantized.some((path) => last(path) === 'lm_head');
  if (wanted === undefined && !headQuantized && kept.every((path) => last(path) === 'lm_head')) return { modules: null, unskippable: [] };

  const modules = (wanted ?? ['lm_head']).filter(harmless);
  // A list takes the place of the defaults, so a head that shares its weights with the embeddings must be in it, too.
  if (!modules.includes('lm_head') && harmless('lm_head')) modules.push('lm_head');
  const unskippable: string[] = [];
  for (const path of kept) {
    if (modules.some((entry) => names(entry, path))) continue;
    const entry = [last(path), path].find(harmless);
    if (entry === undefined) unskippable.push(path);
    else modules.push(entry);
  }
  return { modules, unskippable };
}

/** What the three readers say of an entry and a name. */
function rules(entry: string, path: string): readonly boolean[] {
  return [
    last(path) === entry || path.includes(`${entry}.`) || path === entry,
    startsLike(entry, path) || path.endsWith(entry),
    path.split('.').includes(entry) || path.startsWith(`${entry}.`) || path === entry,
  ];
}

/** The beginning of a name as a regular expression sees it: a dot stands for any character. */
export function startsLike(entry: string, path: string): boolean {
  return entry.length <= path.length && [...entry].every((char, i) => char === '.' || char === path[i]);
}

export function last(path: string): string {
  return path.slice(path.lastIndexOf('.') + 1);
}
