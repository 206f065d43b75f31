// `llm_int8_skip_modules` of bitsandbytes, `modules_to_not_convert` of HIGGS: a list that means the same to several readers, which decide in different ways
// which linears are not quantized. Null stands for the defaults of transformers, which keep the head alone.

import { LowbitError, type PlannedLinear } from '@lowbit/core';
import { type SkipReader, skipTest } from '@lowbit/layouts';

export interface SkipList {
  /** Value of the field. */
  readonly modules: readonly string[] | null;
  /** Kept linears that no entry can name for all readers without naming a quantized one for some. */
  readonly unskippable: readonly string[];
}

export interface SkipListOptions {
  /** Entries that the user asked for; those that would skip a quantized linear are left out. Null stays null where the default means the same. */
  readonly wanted: readonly string[] | null | undefined;
  readonly readers: readonly SkipReader[];
  /** For messages. */
  readonly field: string;
}

/** Throws ERR_BAD_ARGUMENT for a wanted entry that is more of a regular expression than lowbit reads. */
export function skipList(linears: readonly PlannedLinear[], { wanted, readers, field }: SkipListOptions): SkipList {
  const quantized = linears.filter(({ use }) => use !== 'keep').map(({ site }) => site.path);
  const kept = linears.filter(({ use }) => use === 'keep').map(({ site }) => site.path);
  const tests = remembered(readers);
  for (const entry of wanted ?? []) if (tests(entry) === undefined) throw unreadable(entry, field);
  const harmless = (entry: string) => tests(entry)?.every((skips) => !quantized.some(skips)) ?? false;
  const names = (entry: string, path: string) => tests(entry)!.every((skips) => skips(path));
  const headQuantized = quantized.some((path) => last(path) === 'lm_head');
  if (wanted === null && !headQuantized && kept.every((path) => last(path) === 'lm_head')) return { modules: null, unskippable: [] };

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

type Test = (path: string) => boolean;

/** For an entry the tests of all readers; undefined if one of them cannot be followed. */
function remembered(readers: readonly SkipReader[]): (entry: string) => readonly Test[] | undefined {
  const known = new Map<string, readonly Test[] | undefined>();
  return (entry) => {
    if (!known.has(entry)) {
      const tests = readers.map((reader) => skipTest(entry, reader));
      known.set(entry, tests.includes(undefined) ? undefined : (tests as Test[]));
    }
    return known.get(entry);
  };
}

function unreadable(entry: string, field: string): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', `${field}: it cannot be told what ${JSON.stringify(entry.slice(0, 256))} skips`, {
    hint: 'Name modules (lm_head, model.layers.3.mlp), with .* and \\d+ where it must be.',
    details: { field, entry },
  });
}

function last(path: string): string {
  return path.slice(path.lastIndexOf('.') + 1);
}
