// Which modules stay unquantized, given `modules_to_not_convert`. Releases of transformers before 4.50 compare ends of names; later ones also take an entry as
// a regular expression at the start of a name, by which `model.layers.1` is `model.layers.10`, too. Here it has to match whole components.

import type { Quantizer, Rule } from '@lowbit/core';
import { skippingRules, skipTest } from '@lowbit/layouts';
import { checkNames, isNames, refusal, shown } from './refuse.ts';

/** What stays in floating point without a list. */
export interface SkipOptions {
  /** Path of the output embedding, which the default list has; default `lm_head`. */
  readonly output?: string;
  /** Paths of modules that share a weight with another, which the default list has, too; default none. */
  readonly tied?: readonly string[];
}

/**
 * Whether the linear at `path` stays as it is: an entry is the path, or leading components of it, or the path ends with it. An entry may be a regular
 * expression of names, dots, `.*`, `\d` and `\d+`.
 * @throws ERR_BAD_ARGUMENT for a list that is none, or another expression
 */
export function isSkipped(path: string, modules: readonly string[]): boolean {
  if (!isNames(modules)) throw refusal('isSkipped', `modules cannot be ${shown(modules)}`, 'List names of modules.', {});
  return skippedBy(modules)(path);
}

/** Throws ERR_BAD_ARGUMENT for an entry that `isSkipped` does not take. */
export function checkEntries(modules: readonly string[]): void {
  skippedBy(modules);
}

function skippedBy(modules: readonly string[]): (path: string) => boolean {
  const tests = modules.map(named);
  return (path) => tests.some((test) => test(path));
}

function named(entry: string): (path: string) => boolean {
  const test = skipTest(entry, 'components');
  if (test) return test;
  throw refusal(
    'modules_to_not_convert',
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
  checkNames('rules', options, ['output', 'tied']);
  const { output = 'lm_head', tied = [] } = options;
  if (typeof output !== 'string' || output === '') throw refusal('rules', `output cannot be ${shown(output)}`, 'Name one module.', {});
  if (!isNames(tied)) throw refusal('rules', `tied cannot be ${shown(tied)}`, "List modules by their paths: ['lm_head', ...].", {});
  const all = typeof paths === 'object' && paths !== null && Symbol.iterator in paths ? [...paths] : undefined;
  if (!isNames(all)) {
    const hint = 'Pass the paths of all linears: adapter.linears(...).map(({ path }) => path).';
    throw refusal('rules', `paths cannot be ${shown(all ?? paths)}`, hint, {});
  }
  const list = modules ?? [...new Set([...tied, output])];
  return skippingRules(all, quantizer, skippedBy(list));
}
