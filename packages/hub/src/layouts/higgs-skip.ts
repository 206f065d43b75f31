// `modules_to_not_convert`: how two generations of transformers decide which linears are not quantized, and a list that means the same to both.
//
//   before   the name ends with the entry
//   after    the entry, as a regular expression, matches the beginning of the name, or the name ends with it
//
// A list takes the place of the default, which keeps the output head; null stands for the default.

import type { PlannedLinear } from '@lowbit/core';
import { last, startsLike } from './bitsandbytes-skip.ts';

export interface HiggsSkips {
  /** Value of the field. */
  readonly modules: readonly string[] | null;
  /** Kept linears that no entry can name without naming a quantized one. */
  readonly unskippable: readonly string[];
}

/** `wanted`: entries that the user asked for; those that would skip a quantized linear are left out. Null stays null where it means the same. */
export function higgsSkips(linears: readonly PlannedLinear[], wanted: readonly string[] | null | undefined): HiggsSkips {
  const quantized = linears.filter(({ use }) => use !== 'keep').map(({ site }) => site.path);
  const kept = linears.filter(({ use }) => use === 'keep').map(({ site }) => site.path);
  const harmless = (entry: string) => !quantized.some((path) => startsLike(entry, path) || path.endsWith(entry));
  const heads = (paths: readonly string[]) => paths.filter((path) => last(path) === 'lm_head');
  if (wanted === null && heads(quantized).length === 0 && heads(kept).length === kept.length) return { modules: null, unskippable: [] };

  const modules = (wanted ?? ['lm_head']).filter(harmless);
  if (!modules.includes('lm_head') && harmless('lm_head')) modules.push('lm_head');
  const unskippable: string[] = [];
  for (const path of kept) {
    if (modules.some((entry) => path.endsWith(entry))) continue;
    const entry = [last(path), path].find(harmless);
    if (entry === undefined) unskippable.push(path);
    else modules.push(entry);
  }
  return { modules, unskippable };
}
