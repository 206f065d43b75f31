// A recipe: everything that decides the bytes of a quantized model, as JSON that people read, edit and keep. The names are those of the flags.

import { createHash } from 'node:crypto';
import { dirname, isAbsolute, relative, resolve, sep } from 'node:path';
import { isLowbitError, isPlainRecord, LowbitError, nearestName } from '@lowbit/core';
import { readBytes, readJsonFile, writeTextFile } from './files.ts';
import type { ImportanceSource } from './importance.ts';
import { idleSettings, makeQuantizer, makeRules } from './methods.ts';
import {
  DTYPES,
  type FloatDType,
  IMPORTANCE,
  type ImportanceFrom,
  LAYOUTS,
  type LayoutName,
  METHODS,
  type MethodName,
  type MethodSettings,
  parseAxis,
  parseBits,
  parseChoice,
  parseDimension,
  parseFeedback,
  parseGroup,
  parseHadamardSize,
  parseRule,
  parseThreshold,
  QUANT_ZERO,
  type RuleText,
  SCALES,
  SOLVERS,
  usesImportance,
} from './parse.ts';
import type { QuantizeModelOptions } from './quantize-model.ts';
import { readNamed } from './texts.ts';

/** What becomes of the linears of a model. Rules are as `--rule` has them, the last match wins. */
export interface Recipe extends MethodSettings {
  readonly method: MethodName;
  /** Default `none`. */
  readonly importance?: ImportanceFrom | undefined;
  readonly rules?: readonly string[] | undefined;
  readonly dtype?: FloatDType | undefined;
  readonly layout?: LayoutName | undefined;
}

const KIND = 'lowbit recipe';
const VERSION = 1;
/** A rule for every linear of the largest mixtures fits. */
const MAX_RULES = 2 ** 18;

type Read = (value: unknown) => unknown;

/** A parser of flags, for values that JSON has as numbers, too. */
const read =
  (parse: (text: string) => unknown): Read =>
  (value) => {
    if (typeof value !== 'string' && typeof value !== 'number') throw wrong(value, 'a number or a text');
    return parse(String(value));
  };
const flag: Read = (value) => {
  if (typeof value !== 'boolean') throw wrong(value, 'true or false');
  return value;
};
const oneOf = (words: readonly string[]): Read => read((text) => parseChoice(text, words));

const SETTING: Readonly<Record<keyof MethodSettings, Read>> = {
  bits: read(parseBits),
  group: read(parseGroup),
  axis: read(parseAxis),
  solver: oneOf(SOLVERS),
  feedback: read(parseFeedback),
  quantScale: flag,
  quantZero: oneOf(QUANT_ZERO),
  doubleQuant: flag,
  scale: oneOf(SCALES),
  threshold: read(parseThreshold),
  p: read(parseDimension),
  hadamardSize: read(parseHadamardSize),
  computeDtype: oneOf(DTYPES),
  allowNonFinite: flag,
};
const SETTING_NAMES = Object.keys(SETTING) as readonly (keyof MethodSettings)[];

const FIELDS: Readonly<Record<keyof Recipe, Read>> = {
  method: oneOf(METHODS),
  ...SETTING,
  importance: readImportance,
  rules: readRules,
  dtype: oneOf(DTYPES),
  layout: oneOf(LAYOUTS),
};
const NAMES = ['kind', 'version', ...Object.keys(FIELDS)];

function wrong(value: unknown, allowed: string): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', `${String(JSON.stringify(value)).slice(0, 80)} is not ${allowed}`);
}

function readRules(value: unknown): readonly string[] {
  if (!Array.isArray(value) || value.length > MAX_RULES) throw wrong(value, 'a list of rules such as "*.v_proj=hqq:b8:g64"');
  return value.map((rule: unknown) => {
    if (typeof rule !== 'string') throw wrong(rule, 'a rule such as "*.v_proj=hqq:b8:g64"');
    parseRule(rule);
    return rule;
  });
}

function readImportance(value: unknown): ImportanceFrom {
  const known = IMPORTANCE.find((name) => name === value);
  if (known !== undefined) return known;
  const allowed = `${IMPORTANCE.join(', ')} or { "file": "text.txt" }`;
  if (!isPlainRecord(value)) throw wrong(value, allowed);
  const { file, sha256, ...rest } = value;
  const isHash = sha256 === undefined || (typeof sha256 === 'string' && /^[0-9a-f]{64}$/.test(sha256));
  if (typeof file !== 'string' || file === '' || !isHash || Object.keys(rest).length > 0) throw wrong(value, allowed);
  return sha256 === undefined ? { file } : { file, sha256 };
}

/**
 * A recipe from parsed JSON. `name` is what messages call it.
 * @throws ERR_BAD_ARGUMENT for what is no recipe, a field that there is not, a value that its field does not take, a setting that no method of the recipe has,
 * importance that nothing would use, settings that a method refuses
 */
export function parseRecipe(value: unknown, name = 'the recipe'): Recipe {
  const bad = (problem: string, hint: string, field?: string): LowbitError =>
    new LowbitError('ERR_BAD_ARGUMENT', `${name} ${problem}`, {
      hint,
      details: { recipe: name, ...(field === undefined ? {} : { field }) },
    });
  if (!isPlainRecord(value) || value.kind !== KIND) {
    throw bad(
      `is no recipe: it has no "kind": "${KIND}"`,
      '`lowbit quantize MODEL --preset best4 --dry-run --save-recipe FILE` writes one to begin with.',
    );
  }
  if (value.version !== VERSION) {
    throw bad(
      `has version ${String(JSON.stringify(value.version))}, and this lowbit reads version ${VERSION}`,
      'Update lowbit, or save the recipe again.',
    );
  }
  const recipe: Record<string, unknown> = {};
  for (const [field, given] of Object.entries(value)) {
    if (field === 'kind' || field === 'version') continue;
    if (!Object.hasOwn(FIELDS, field)) {
      const near = nearestName(field, NAMES);
      throw bad(
        `has no field ${JSON.stringify(field)} that lowbit knows`,
        near === undefined ? `Fields: ${NAMES.join(', ')}.` : `Did you mean ${near}?`,
        field,
      );
    }
    recipe[field] = naming(name, field, () => FIELDS[field as keyof Recipe](given));
  }
  if (recipe.method === undefined) throw bad('names no method', `Give "method": ${METHODS.join(', ')}.`, 'method');
  const made = recipe as unknown as Recipe;
  const { methods, uses } = usesOf(made);
  const [idle] = idleSettings(methods, settingsOf(made));
  if (idle !== undefined) throw bad(`gives ${idle}, which ${methods.join(' and ')} does not have`, 'Leave it out.', idle);
  naming(name, undefined, () => {
    makeQuantizer(made.method, settingsOf(made));
    makeRules(ruleTexts(made), settingsOf(made));
  });
  if ((made.importance ?? 'none') !== 'none' && !uses.some(usesImportance)) {
    throw bad('asks for importance that nothing uses', 'It is for "solver": "least-squares" and "scale": "search".', 'importance');
  }
  return made;
}

/** Adds the name of the recipe, and the field, to what a parser of flags or a quantizer says. */
function naming<T>(name: string, field: string | undefined, body: () => T): T {
  try {
    return body();
  } catch (error) {
    if (!isLowbitError(error)) throw error;
    const place = field === undefined ? name : `${name}: ${field}`;
    throw new LowbitError('ERR_BAD_ARGUMENT', `${place}: ${error.message}`, {
      hint: error.hint,
      details: { recipe: name, field },
      cause: error,
    });
  }
}

/** The settings of its method. */
export function settingsOf(recipe: Recipe): MethodSettings {
  return Object.fromEntries(SETTING_NAMES.flatMap((name) => (recipe[name] === undefined ? [] : [[name, recipe[name]]])));
}

function ruleTexts({ rules = [] }: Recipe): readonly RuleText[] {
  return rules.map(parseRule);
}

function usesOf(recipe: Recipe): { readonly methods: readonly MethodName[]; readonly uses: readonly MethodSettings[] } {
  const uses = ruleTexts(recipe).flatMap(({ use }) => (use === 'keep' ? [] : [use]));
  return { methods: [...new Set([recipe.method, ...uses.map(({ method }) => method)])], uses: [recipe, ...uses] };
}

/** Without what nothing in it uses, which `parseRecipe` refuses: settings and importance may have been for choices that no linear got. */
export function withoutIdle(recipe: Recipe): Recipe {
  const { methods, uses } = usesOf(recipe);
  const idle: readonly string[] = idleSettings(methods, settingsOf(recipe));
  const { importance, ...rest } = Object.fromEntries(Object.entries(recipe).filter(([name]) => !idle.includes(name))) as unknown as Recipe;
  return uses.some(usesImportance) ? { ...rest, importance } : rest;
}

/** The JSON text of a recipe, fields in one order: equal recipes are equal texts. */
export function recipeText(recipe: Recipe): string {
  const fields = (Object.keys(FIELDS) as (keyof Recipe)[]).filter((name) => {
    const value = recipe[name];
    return (
      value !== undefined &&
      !(name === 'importance' && value === 'none') &&
      !(name === 'rules' && (value as readonly unknown[]).length === 0)
    );
  });
  return `${JSON.stringify({ kind: KIND, version: VERSION, ...Object.fromEntries(fields.map((name) => [name, recipe[name]])) }, null, 2)}\n`;
}

/** Reads a recipe file; a text for importance is found beside it, and is the one that it was saved with. Throws as `parseRecipe`, and for files that cannot be read. */
export async function readRecipe(path: string, name = '--recipe'): Promise<Recipe> {
  const recipe = parseRecipe(await readJsonFile(path, name), `${name}: ${path}`);
  if (typeof recipe.importance !== 'object') return recipe;
  const { file, sha256 } = recipe.importance;
  const found = isAbsolute(file) ? file : resolve(dirname(path), file);
  if (sha256 !== undefined && (await hashOf(found, name)) !== sha256) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `${name}: ${found} is not the text that ${path} was made with`, {
      hint: 'Bring that text back, or take sha256 out of the recipe: the result is another one then.',
      details: { recipe: path, file: found },
    });
  }
  return { ...recipe, importance: { file: found, ...(sha256 === undefined ? {} : { sha256 }) } };
}

/** Writes a recipe file, for `readRecipe`. Throws ERR_NOT_FOUND, ERR_IO. */
export async function writeRecipe(path: string, recipe: Recipe, name = '--save-recipe'): Promise<void> {
  let { importance } = recipe;
  if (typeof importance === 'object') {
    const file = relative(dirname(resolve(path)), resolve(importance.file))
      .split(sep)
      .join('/');
    importance = { file, sha256: await hashOf(importance.file, name) };
  }
  await writeTextFile(path, recipeText({ ...recipe, importance }), name);
}

async function hashOf(path: string, flag: string): Promise<string> {
  return createHash('sha256')
    .update(await readBytes(path, flag))
    .digest('hex');
}

/** What `importance` of a recipe names, read. */
export async function importanceSource(from: ImportanceFrom, name: string): Promise<ImportanceSource> {
  if (typeof from === 'string') return from;
  const file = await readNamed(from.file, name, IMPORTANCE);
  return 'ids' in file ? { ids: file.ids.texts } : file;
}

/**
 * A recipe as options of `quantizeModel`.
 * @throws what `makeQuantizer` refuses, and for a text that cannot be read
 *
 * @example
 * await quantizeModel('./model', { out: './model-best4', ...(await recipeOptions(presetRecipe('best4'))) });
 */
export async function recipeOptions(
  recipe: Recipe,
): Promise<
  Required<Pick<QuantizeModelOptions, 'quantizer' | 'rules'>> &
    Pick<QuantizeModelOptions, 'dtype' | 'layout'> & { readonly importance: ImportanceSource }
> {
  const { method, importance = 'none', dtype, layout } = recipe;
  const settings = settingsOf(recipe);
  return {
    quantizer: makeQuantizer(method, settings),
    rules: makeRules(ruleTexts(recipe), settings),
    ...(dtype === undefined ? {} : { dtype }),
    ...(layout === undefined ? {} : { layout }),
    importance: await importanceSource(importance, 'importance'),
  };
}
