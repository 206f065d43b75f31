// Which modules transformers leaves unquantized, given `llm_int8_skip_modules`. Its releases 4 and 5 match names in different ways.

import { checkOptionNames, type Quantizer, type Rule } from '@lowbit/core';
import { type SkipReader, skippingRules, skipTest } from '@lowbit/layouts';
import { isNames, refusal, shown } from './refuse.ts';

/** Major release of transformers. */
export type TransformersRelease = 4 | 5;

/** How names of modules to skip are matched, and what is left out without any. */
export interface SkipOptions {
  /** Whose matching of names; default 5. */
  readonly release?: TransformersRelease;
  /** Path of the output embedding; default `lm_head`. */
  readonly output?: string;
  /** Paths of modules that share a weight with another, such as `lm_head` and `model.embed_tokens`; default none. */
  readonly tied?: readonly string[];
  /** Path of the module that holds the model's last parameter; default the output embedding. */
  readonly last?: string;
}

const OPTIONS: readonly (keyof SkipOptions)[] = ['release', 'output', 'tied', 'last'];

/** Throws ERR_BAD_ARGUMENT, in the words of `call`, which may have `more` options. */
export function checkSkipOptions(call: string, options: SkipOptions, more: readonly string[] = []): void {
  checkOptionNames(call, options, [...OPTIONS, ...more]);
  const { output, tied, last } = options;
  for (const [name, path] of Object.entries({ output, last })) {
    if (path !== undefined && (typeof path !== 'string' || path === ''))
      throw refusal(call, `${name} cannot be ${shown(path)}`, 'Name one module by its path.', {});
  }
  if (tied !== undefined && !isNames(tied))
    throw refusal(call, `tied cannot be ${shown(tied)}`, "List modules by their paths: ['lm_head', ...].", {});
}

/**
 * The modules that transformers skips if no list is given. Release 4: the output embedding or, in a model with tied weights, these and the last module
 * (which need not be a linear one). Release 5: all of them. Throws ERR_BAD_ARGUMENT for unusable options.
 */
export function defaultSkipModules(options: SkipOptions = {}): string[] {
  checkSkipOptions('defaultSkipModules', options);
  const { release = 5, output = 'lm_head', tied = [], last = output } = options;
  if (release === 4 && tied.length === 0) return [output];
  return [...new Set(release === 4 ? [...tied, last] : [...tied, last, output])];
}

/**
 * Whether transformers leaves the linear at `path` unquantized. Release 4: its last name is in the list, or an entry is the whole path or ends at one of
 * its dots. Release 5: an entry, as a regular expression, matches at the start of the path (so `model.layers.1` is also `model.layers.10`), or the path
 * ends with it.
 * @throws ERR_BAD_ARGUMENT for a list that is none, and in release 5 for an entry that is more of a regular expression than names, dots, `.*`, `\d` and `\d+`
 */
export function isSkipped(path: string, modules: readonly string[], release: TransformersRelease = 5): boolean {
  if (!isNames(modules)) throw refusal('isSkipped', `modules cannot be ${shown(modules)}`, 'List names of modules.', {});
  return skippedBy(modules, release)(path);
}

function skippedBy(modules: readonly string[], release: TransformersRelease): (path: string) => boolean {
  if (release !== 4 && release !== 5) throw refusal('isSkipped', `release cannot be ${String(release)}`, 'Use 4 or 5.', { release });
  const tests = modules.map((entry) => named(entry, `transformers ${release}`));
  return (path) => tests.some((test) => test(path));
}

function named(entry: string, reader: SkipReader): (path: string) => boolean {
  const test = skipTest(entry, reader);
  if (test) return test;
  throw refusal(
    'llm_int8_skip_modules',
    `${JSON.stringify(entry.slice(0, 256))} is no module name`,
    'Name modules (lm_head, model.layers.3.mlp), or use rules of your own.',
    { entry },
  );
}

/**
 * Rules that treat the linears at `paths` as transformers would: `quantizer` for all but those it skips. They leave no linear out, so they also override
 * the default of `quantizeCheckpoint`, which keeps `lm_head`.
 */
export function skipRules(
  paths: Iterable<string>,
  quantizer: Quantizer,
  modules: readonly string[] | null,
  options: SkipOptions = {},
): Rule[] {
  const defaults = defaultSkipModules(options);
  const list = modules ?? defaults;
  return skippingRules(paths, quantizer, skippedBy(list, options.release ?? 5));
}
