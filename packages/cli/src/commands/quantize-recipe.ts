// Where the settings of `lowbit quantize` come from: a preset or a recipe file, and flags, which go first.

import type { ModelAllocation } from '../allocate-model.ts';
import { UsageError } from '../errors.ts';
import { filledSettings, makeQuantizer } from '../methods.ts';
import { type ImportanceFrom, type MethodChoice, type MethodSettings, parseRule, parseUse, type RuleUse, ruleText } from '../parse.ts';
import { PRESET, presetRecipe } from '../presets.ts';
import { type Recipe, readRecipe, settingsOf, withoutIdle } from '../recipe.ts';
import { choiceNames } from './allocation.ts';
import type { QuantizeOptions } from './quantize.ts';

/** Flags with all that was left out filled in. */
export type FilledOptions = QuantizeOptions & {
  readonly method: MethodChoice;
  readonly importance: ImportanceFrom;
  /** Nobody named a method, and nobody importance: both are those of `best4`. */
  readonly isDefault: boolean;
};

/** What is done where no flag names a method: how `best4` finds scales, for every width and group. */
const DEFAULT = PRESET.best4.recipe;

/** The recipe that flags name, read; undefined if they name none. Throws a UsageError for two, and what `readRecipe` throws. */
export async function recipeOf({ preset, recipe: file }: QuantizeOptions): Promise<Recipe | undefined> {
  if (preset !== undefined && file !== undefined) {
    throw new UsageError(
      '--preset and --recipe exclude each other',
      'A preset is a recipe: save it with --save-recipe, edit it, and pass that.',
    );
  }
  return file !== undefined ? await readRecipe(file) : preset !== undefined ? presetRecipe(preset) : undefined;
}

/** Flags, filled up by the recipe that they name. Throws a UsageError for flags that contradict it. */
export function withRecipe(flags: QuantizeOptions, recipe: Recipe | undefined): FilledOptions {
  const { preset, recipe: file, method } = flags;
  if (recipe === undefined) {
    // -m hqq is what Python writes.
    if (method !== undefined) return { ...flags, method, importance: flags.importance ?? 'none', isDefault: false };
    const solver = flags.solver ?? DEFAULT.solver!;
    const isUnsaid = solver === DEFAULT.solver && flags.importance === undefined;
    const isDefault = isUnsaid && flags.feedback === undefined;
    const importance = flags.importance ?? (isDefault ? DEFAULT.importance! : isUnsaid ? 'self' : 'none');
    return { ...flags, method: DEFAULT.method, solver, importance, isDefault };
  }
  if (method !== undefined && method !== recipe.method) {
    const named = preset === undefined ? `--recipe ${file}` : `--preset ${preset}`;
    throw new UsageError(`${named} is for ${recipe.method}, not for ${methodText(method)}`, 'Leave --method out.');
  }
  const settings = settingsOf(recipe);
  const { bits: _, group: __, ...others } = settings;
  const given = definedOf(flags);
  const { importance: own = 'none', dtype, layout, rules = [] } = recipe;
  // Presets that weigh by random tokens: feedback gains little from them.
  const importance = preset !== undefined && flags.feedback !== undefined && own === 'random-tokens' ? 'self' : own;
  return {
    importance,
    isDefault: false,
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

/**
 * The importance that a target is shared out by: what it would be without feedback, so that every layer gets the choice that it has without. Matrices of moments are found only while
 * the model is quantized.
 */
export function sharingImportance(flags: QuantizeOptions, recipe: Recipe | undefined): ImportanceFrom {
  const { feedback: _, ...others } = flags;
  return withRecipe(others, recipe).importance;
}

/** Whether bits are shared out. */
export function hasTarget({ targetBits, targetSize }: Pick<QuantizeOptions, 'targetBits' | 'targetSize'>): boolean {
  return targetBits !== undefined || targetSize !== undefined;
}

/** Whether anything that linears can get looks at importance. */
export function hasUseForImportance(options: FilledOptions, settings: MethodSettings): boolean {
  const { method, rules } = options;
  const own: readonly RuleUse[] =
    typeof method !== 'string' ? [] : hasTarget(options) ? choiceNames(options, method, settings).map(parseUse) : [{ method }];
  return [...own, ...rules.map(({ use }) => use)].some(
    (use) => use !== 'keep' && makeQuantizer(use.method, filledSettings(use, settings)).usesImportance !== false,
  );
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
