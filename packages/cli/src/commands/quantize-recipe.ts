// Where the settings of `lowbit quantize` come from: a preset or a recipe file, and flags, which go first.

import type { ModelAllocation } from '../allocate-model.ts';
import { UsageError } from '../errors.ts';
import { type ImportanceFrom, METHODS, type MethodChoice, type MethodSettings, parseRule, ruleText } from '../parse.ts';
import { presetRecipe } from '../presets.ts';
import { type Recipe, readRecipe, settingsOf, withoutIdle } from '../recipe.ts';
import type { QuantizeOptions } from './quantize.ts';

/** Flags with all that was left out filled in. */
export type FilledOptions = QuantizeOptions & { readonly method: MethodChoice; readonly importance: ImportanceFrom };

/** Throws a UsageError for flags that contradict the recipe, and what `readRecipe` throws. */
export async function withRecipe(flags: QuantizeOptions): Promise<FilledOptions> {
  const { preset, recipe: file, method } = flags;
  if (preset !== undefined && file !== undefined) {
    throw new UsageError(
      '--preset and --recipe exclude each other',
      'A preset is a recipe: save it with --save-recipe, edit it, and pass that.',
    );
  }
  const recipe = file !== undefined ? await readRecipe(file) : preset !== undefined ? presetRecipe(preset) : undefined;
  if (recipe === undefined) return { ...flags, method: method ?? METHODS[0], importance: flags.importance ?? 'none' };
  if (method !== undefined && method !== recipe.method) {
    const named = preset === undefined ? `--recipe ${file}` : `--preset ${preset}`;
    throw new UsageError(`${named} is for ${recipe.method}, not for ${methodText(method)}`, 'Leave --method out.');
  }
  const settings = settingsOf(recipe);
  const { bits: _, group: __, ...others } = settings;
  const given = definedOf(flags);
  const { importance = 'none', dtype, layout, rules = [] } = recipe;
  return {
    importance,
    ...definedOf({ dtype, layout }),
    // A target shares out the bits itself: what is left of a recipe is how.
    ...(hasTarget(flags) ? others : settings),
    ...given,
    method: recipe.method,
    rules: [...rules.map(parseRule), ...flags.rules],
  } as FilledOptions; // nothing of it is undefined
}

const definedOf = <T extends object>(settings: T): { [K in keyof T]?: Exclude<T[K], undefined> } =>
  Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined)) as { [K in keyof T]?: Exclude<T[K], undefined> };

/** Whether bits are shared out. */
export function hasTarget({ targetBits, targetSize }: Pick<QuantizeOptions, 'targetBits' | 'targetSize'>): boolean {
  return targetBits !== undefined || targetSize !== undefined;
}

export function methodText(method: MethodChoice): string {
  return typeof method === 'string' ? method : method.module;
}

/**
 * The recipe of what was done: what an allocation chose is in it as rules, so that nothing has to be tested again. None for methods of third parties, whose
 * modules a recipe does not name.
 */
export function recipeMade(options: FilledOptions, settings: MethodSettings, allocation: ModelAllocation | undefined): Recipe | undefined {
  const { method, importance, dtype, layout, rules } = options;
  if (typeof method !== 'string') return undefined;
  const chosen = (allocation?.linears ?? []).map(({ path, choice }) => `${path}=${choice}`);
  return withoutIdle({ method, ...definedOf(settings), importance, rules: [...rules.map(ruleText), ...chosen], dtype, layout });
}
