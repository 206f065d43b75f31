// `llm_int8_skip_modules`: a list that means the same to three readers, which decide in different ways which linears are not quantized.
// Null stands for the defaults of transformers, which keep the head alone.

import { LowbitError, type PlannedLinear } from '@lowbit/core';
import { skipTest } from '@lowbit/core/layouts';

export interface SkipList {
  /** Value of the field. */
  readonly modules: readonly string[] | null;
  /** Kept linears that no entry can name for all readers without naming a quantized one for some. */
  readonly unskippable: readonly string[];
}

/**
 * `wanted`: entries that the user asked for; those that would skip a quantized linear are left out. Throws ERR_BAD_ARGUMENT for one that is more of a
 * regular expression than lowbit reads.
 */
export function skipList(linears: readonly PlannedLinear[], wanted: readonly string[] | undefined): SkipList {
  const quantized = linears.filter(({ use }) => use !== 'keep').map(({ site }) => site.path);
  const kept = linears.filter(({ use }) => use === 'keep').map(({ site }) => site.path);
  const tests = readers();
  for (const entry of wanted ?? []) if (tests(entry) === undefined) throw unreadable(entry);
  const harmless = (entry: string) => tests(entry)?.every((skips) => !quantized.some(skips)) ?? false;
  const names = (entry: string, path: string) => tests(entry)!.every((skips) => skips(path));
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

type Test = (path: string) => boolean;

/** For an entry the tests of all readers; undefined if one of them cannot be followed. */
function readers(): (entry: string) => readonly Test[] | undefined {
  const known = new Map<string, readonly Test[] | undefined>();
  return (entry) => {
    if (!known.has(entry)) {
      const tests = [skipTest(entry, 'transformers 4'), skipTest(entry, 'transformers 5'), skipTest(entry, 'vLLM')];
      known.set(entry, tests.includes(undefined) ? undefined : (tests as Test[]));
    }
    return known.get(entry);
  };
}

function unreadable(entry: string): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', `the bitsandbytes layout cannot tell what ${JSON.stringify(entry.slice(0, 256))} skips`, {
    hint: 'In llm_int8_skip_modules name modules (lm_head, model.layers.3.mlp), with .* and \\d+ where it must be.',
    details: { field: 'llm_int8_skip_modules', entry },
  });
}

function last(path: string): string {
  return path.slice(path.lastIndexOf('.') + 1);
}
