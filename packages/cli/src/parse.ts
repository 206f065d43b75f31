// What people write after flags, turned into values: sizes, numbers in bounds, rules. Nothing here knows the command line library; every refusal
// says what was given and what is allowed, and the caller adds the name of the flag.

import { glob, LowbitError } from '@lowbit/core';
import { isPath } from './module-file.ts';

/** Methods that `-m` and rules can name. */
export const METHODS = ['hqq', 'nf4', 'fp4', 'int8', 'higgs'] as const;
export type MethodName = (typeof METHODS)[number];

/** Settings that each method has. Of `group`, only hqq has `none`. */
export const SETTINGS: Readonly<Record<MethodName, readonly (keyof MethodSettings)[]>> = {
  hqq: ['bits', 'group', 'axis', 'solver', 'feedback', 'quantScale', 'quantZero'],
  nf4: ['group', 'doubleQuant', 'scale', 'computeDtype', 'allowNonFinite'],
  fp4: ['group', 'doubleQuant', 'scale', 'computeDtype', 'allowNonFinite'],
  int8: ['threshold', 'allowNonFinite'],
  higgs: ['bits', 'p', 'group', 'hadamardSize', 'scale'],
};

/** Bits per code that HQQ has; HIGGS has 4, 3 and 2 of them. */
const BITS = [8, 6, 5, 4, 3, 2, 1.58, 1] as const;
export type Bits = (typeof BITS)[number];

/** Float dtypes that `--dtype` and `--compute-dtype` take. */
export const DTYPES = ['f16', 'bf16', 'f32'] as const;
export type FloatDType = (typeof DTYPES)[number];

/** Weights that share a scale; none: whole rows (axis 1) or columns (axis 0). Never null: commander takes that for a value that is missing. */
export type Group = number | 'none';

/** What `--p` takes: weights that share a code. */
const DIMENSIONS = ['2', '1'] as const;
export type Dimension = 1 | 2;

/** Solvers that `--solver` takes; rules also take `ls` for the last. */
export const SOLVERS = ['hqq', 'least-squares'] as const;
export type Solver = (typeof SOLVERS)[number];

/** What `--importance` takes beside files. */
export const IMPORTANCE = ['none', 'random-tokens', 'self', 'weights'] as const;
/** One of them, or the path of a text, with the hash that it has to have. */
export type ImportanceFrom = (typeof IMPORTANCE)[number] | { readonly file: string; readonly sha256?: string };

/** A source of importance; `random` is short for `random-tokens`, anything else a file. Throws ERR_BAD_ARGUMENT. */
export function parseImportance(text: string): ImportanceFrom {
  if (text === 'random') return 'random-tokens';
  return IMPORTANCE.find((name) => name === text) ?? { file: parsePath(text) };
}

/** What `--scale` takes: of nf4 and fp4 the first two, of higgs the others; the first of each is the default. */
export const SCALES = ['absmax', 'search', 'norm', 'unbiased'] as const;
export type ScaleKind = (typeof SCALES)[number];

/** What `--quant-zero` takes: one grid for the zeros of a linear, or one for every 128 of them. */
export const QUANT_ZERO = ['linear', 'groups'] as const;
export type QuantZero = (typeof QUANT_ZERO)[number];

/** Layouts that `--layout` takes: those that @lowbit/hub brings. Without it the first that stores everything is written. */
export const LAYOUTS = ['hqq', 'hqq-safetensors', 'hqq-nested', 'bitsandbytes', 'higgs', 'mixed'] as const;
export type LayoutName = (typeof LAYOUTS)[number];

/** What `lowbit bench --output` takes. */
export const BENCH_FORMATS = ['md', 'csv', 'json', 'jsonl'] as const;
export type BenchFormat = (typeof BENCH_FORMATS)[number];

/** What `--flute` takes: tiles of FLUTE's packing, the portable form, or tiles of 32 where they fit. */
export const FLUTE = ['32', '64', 'portable', 'auto'] as const;

/** How HIGGS codes are to be packed. Throws ERR_BAD_ARGUMENT. */
export function parseFlute(text: string): 32 | 64 | 'portable' | 'auto' {
  const choice = parseChoice(text, FLUTE);
  return choice === 'portable' || choice === 'auto' ? choice : choice === '32' ? 32 : 64;
}

/** Settings of a method as given; what is absent is filled in by the command. */
export interface MethodSettings {
  readonly bits?: Bits | undefined;
  readonly group?: Group | undefined;
  readonly axis?: 0 | 1 | undefined;
  readonly solver?: Solver | undefined;
  /** How much of the second moments between channels is believed; absent: none, every weight takes the code nearest to it. */
  readonly feedback?: number | undefined;
  readonly quantScale?: boolean | undefined;
  readonly quantZero?: QuantZero | undefined;
  readonly doubleQuant?: boolean | undefined;
  readonly scale?: ScaleKind | undefined;
  readonly threshold?: number | undefined;
  readonly p?: Dimension | undefined;
  readonly hadamardSize?: number | undefined;
  readonly computeDtype?: FloatDType | undefined;
  readonly allowNonFinite?: boolean | undefined;
}

/** What a rule does, as written, before its quantizer is made. */
export type RuleUse = 'keep' | ({ readonly method: MethodName } & MethodSettings);

/** A rule as written. */
export interface RuleText {
  readonly match: string;
  readonly use: RuleUse;
}

/** Whether settings have a use for importance. */
export function usesImportance({ solver, scale }: MethodSettings): boolean {
  return solver === 'least-squares' || scale === 'search';
}

function bad(given: string, allowed: string): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', `${JSON.stringify(given)} is not ${allowed}`, { details: { value: given, allowed } });
}

const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KIB: 2 ** 10,
  MIB: 2 ** 20,
  GIB: 2 ** 30,
  TIB: 2 ** 40,
};

/** Bytes of `4GB` (10^9), `512MiB` (2^20), `1.5 GiB` or a plain number of bytes; units in any case. Throws ERR_BAD_ARGUMENT. */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([KMGT]?I?B?)$/i.exec(text.trim());
  // `4G` could mean either; the unit is asked for rather than guessed.
  const unit = match && UNITS[match[2]!.toUpperCase()];
  const bytes = unit ? Math.floor(Number(match[1]) * unit) : Number.NaN;
  if (!Number.isSafeInteger(bytes) || bytes < 1) throw bad(text, 'a size such as 4GB, 192MB or 512MiB');
  return bytes;
}

/** Least bound for weights in flight: what one linear at a time needs. */
const LEAST_MEMORY = 32 * 2 ** 20;

/** A size for `--max-memory`, 32 MiB or more. Throws ERR_BAD_ARGUMENT. */
export function parseMemory(text: string): number {
  const bytes = parseSize(text);
  if (bytes < LEAST_MEMORY) throw bad(text, 'a size of 32 MiB or more');
  return bytes;
}

/** A path. Node takes the empty one, which scripts with an unset variable give, for the current folder. Throws ERR_BAD_ARGUMENT. */
export function parsePath(text: string): string {
  if (text === '') throw bad(text, 'a path (for the current folder, write .)');
  return text;
}

export interface NumberBounds {
  readonly min: number;
  readonly max?: number;
  /** Only whole numbers. */
  readonly whole?: boolean;
}

/** A plain decimal number within bounds, both inclusive. Throws ERR_BAD_ARGUMENT. */
export function parseNumber(text: string, { min, max, whole = false }: NumberBounds): number {
  const value = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?$/i.test(text.trim()) ? Number(text) : Number.NaN;
  const inside = Number.isFinite(value) && value >= min && value <= (max ?? Number.MAX_SAFE_INTEGER);
  if (inside && (!whole || Number.isInteger(value))) return value;
  throw bad(text, `a ${whole ? 'whole ' : ''}number ${max === undefined ? `of ${min} or more` : `from ${min} to ${max}`}`);
}

/** Whole numbers within bounds, with commas between them. Throws ERR_BAD_ARGUMENT. */
export function parseCounts(text: string, { min, max = 2 ** 31 }: NumberBounds): readonly number[] {
  return text.split(',').map((part) => parseNumber(part, { min, max, whole: true }));
}

/** Two counts from 1. Throws ERR_BAD_ARGUMENT. */
export function parsePair(text: string): readonly [number, number] {
  if (text.split(',').length !== 2) throw bad(text, 'two numbers such as 512,128');
  const [first, second] = parseCounts(text, { min: 1 });
  return [first!, second!];
}

/** A method of the command, or the module of another one. */
export type MethodChoice = MethodName | { readonly module: string };

/** One of METHODS; a path, or the name of a package that cannot be a slip of the keyboard. Throws ERR_BAD_ARGUMENT. */
export function parseMethod(text: string): MethodChoice {
  const own = METHODS.find((name) => name === text);
  if (own !== undefined) return own;
  if (isPath(text) || /^(?:@[\w.-]+\/)?[\w.]+[-/][\w./-]+$/.test(text)) return { module: text };
  throw bad(text, `one of ${METHODS.join(', ')}; nor is it a path (./my-method) or the name of a package (lowbit-method-x)`);
}

/** A share of work: `2/4`. Throws ERR_BAD_ARGUMENT. */
export function parseShard(text: string): { readonly index: number; readonly count: number } {
  const [, index = 0, count = 0] = (/^(\d{1,5})\/(\d{1,5})$/.exec(text) ?? []).map(Number);
  if (index >= 1 && index <= count) return { index, count };
  throw bad(text, 'a share of the work such as 2/4: of 4 there are 1/4, 2/4, 3/4 and 4/4');
}

/** One of a list of words. Throws ERR_BAD_ARGUMENT. */
export function parseChoice<T extends string>(text: string, choices: readonly T[]): T {
  const found = choices.find((choice) => choice === text);
  if (found === undefined) throw bad(text, choices.length === 1 ? choices[0]! : `one of ${choices.join(', ')}`);
  return found;
}

/** Bits per code: 8, 6, 5, 4, 3, 2, 1.58 or 1. */
export function parseBits(text: string): Bits {
  const found = BITS.find((bits) => String(bits) === text);
  if (found === undefined) throw bad(text, `one of ${BITS.join(', ')}`);
  return found;
}

/** A group size, or `none` for one group per row or column. */
export function parseGroup(text: string): Group {
  if (text === 'none') return text;
  if (/^[1-9]\d{0,8}$/.test(text)) return Number(text);
  throw bad(text, 'a positive whole number such as 64, or none for whole rows');
}

/** Weights that share a code of HIGGS. Throws ERR_BAD_ARGUMENT. */
export function parseDimension(text: string): Dimension {
  return parseChoice(text, DIMENSIONS) === '2' ? 2 : 1;
}

/** Weights that HIGGS rotates together. Throws ERR_BAD_ARGUMENT. */
export function parseHadamardSize(text: string): number {
  const size = /^[1-9]\d{0,4}$/.test(text) ? Number(text) : 0;
  if (Number.isInteger(Math.log2(size)) && size <= 32768) return size;
  throw bad(text, 'a power of two up to 32768, such as 512');
}

export function parseAxis(text: string): 0 | 1 {
  if (text === '1' || text === '0') return text === '1' ? 1 : 0;
  throw bad(text, '1 (groups along the rows) or 0 (across them)');
}

/** Checks a pattern for tags and paths, and returns it. */
export function parseGlob(text: string): string {
  glob(text);
  return text;
}

/** How much feedback believes. Throws ERR_BAD_ARGUMENT. */
export function parseFeedback(text: string): number {
  const share = parseNumber(text, { min: 0, max: 1 });
  if (share === 0) throw bad(text, 'a number above 0 and at most 1, such as 0.75');
  return share;
}

/** An outlier threshold of int8; 0 turns outliers off. Throws ERR_BAD_ARGUMENT. */
export function parseThreshold(text: string): number {
  return parseNumber(text, { min: 0 });
}

const RULE_FORM =
  'a rule such as "mlp.down_proj=hqq:b8:g64:a0", "mlp.*=nf4:g64:dq", "**.q_proj=nf4:search", "lm_head=int8:t6", "mlp.*=higgs:b4:p2:g256:h512", "mlp.*=higgs:b2:unbiased" or "lm_head=keep"';

function solverOf(text: string): Solver | undefined {
  return text === 'ls' ? 'least-squares' : SOLVERS.find((name) => name === text);
}

/** How the settings that rules can give are written, for messages. */
const WRITTEN: Readonly<Partial<Record<keyof MethodSettings, string>>> = {
  bits: 'b4',
  group: 'g64',
  axis: 'a1',
  solver: `a solver (${SOLVERS.join(', ')})`,
  doubleQuant: 'dq',
  scale: 'search (nf4, fp4) or unbiased (higgs)',
  threshold: 't6',
  p: 'p2',
  hadamardSize: 'h512',
};

/** One setting of a rule. Throws ERR_BAD_ARGUMENT for a value that its kind does not have. */
function parseSetting(text: string): readonly [keyof MethodSettings, MethodSettings] | undefined {
  const solver = solverOf(text);
  if (solver) return ['solver', { solver }];
  const scale = SCALES.find((kind) => kind === text);
  if (scale) return ['scale', { scale }];
  if (text === 'dq') return ['doubleQuant', { doubleQuant: true }];
  const value = text.slice(1);
  if (text[0] === 'b') return ['bits', { bits: parseBits(value) }];
  if (text[0] === 'g') return ['group', { group: parseGroup(value) }];
  if (text[0] === 'a') return ['axis', { axis: parseAxis(value) }];
  if (text[0] === 'p') return ['p', { p: parseDimension(value) }];
  if (text[0] === 'h') return ['hadamardSize', { hadamardSize: parseHadamardSize(value) }];
  if (text[0] === 't') return ['threshold', { threshold: parseThreshold(value) }];
  return undefined;
}

/**
 * `GLOB=keep`, `GLOB=hqq[:bBITS][:gGROUP][:aAXIS][:SOLVER]`, `GLOB=nf4[:gGROUP][:dq][:search]` (or fp4), `GLOB=int8[:tTHRESHOLD]` or
 * `GLOB=higgs[:bBITS][:pP][:gGROUP][:hHADAMARD][:unbiased]`, settings in any order.
 * Throws ERR_BAD_ARGUMENT.
 */
export function parseRule(text: string): RuleText {
  const at = text.lastIndexOf('=');
  if (at < 1 || at === text.length - 1) throw bad(text, RULE_FORM);
  return { match: parseGlob(text.slice(0, at)), use: readUse(text.slice(at + 1), text, RULE_FORM) };
}

/** A rule as `parseRule` reads it. */
export function ruleText({ match, use }: RuleText): string {
  if (use === 'keep') return `${match}=keep`;
  const { method, bits, group, axis, solver, doubleQuant, scale, threshold, p, hadamardSize } = use;
  const lettered = { b: bits, g: group, a: axis, t: threshold, p, h: hadamardSize };
  const words = Object.entries(lettered).flatMap(([letter, value]) => (value === undefined ? [] : [`${letter}${value}`]));
  return [`${match}=${method}`, ...words, solver, doubleQuant ? 'dq' : undefined, scale].filter((word) => word !== undefined).join(':');
}

const USE_FORM = 'a choice such as hqq:b4:g64, nf4:g64:dq, int8 or keep';

/** What comes after the "=" of a rule. Throws ERR_BAD_ARGUMENT. */
export function parseUse(text: string): RuleUse {
  return readUse(text, text, USE_FORM);
}

/** `form` says how the whole text is written. */
function readUse(use: string, text: string, form: string): RuleUse {
  const [word, ...written] = use.split(':');
  if (word === 'keep' && written.length === 0) return 'keep';
  const method = METHODS.find((name) => name === word);
  if (method === undefined) throw bad(text, form === RULE_FORM ? `${form}: after "=" comes keep or ${METHODS.join(', ')}` : form);
  let settings: MethodSettings = {};
  for (const setting of written) {
    const [name, value] = parseSetting(setting) ?? [];
    if (name === undefined || settings[name] !== undefined || !SETTINGS[method].includes(name)) {
      const known = SETTINGS[method].flatMap((each) => WRITTEN[each] ?? []).join(', ');
      throw bad(text, `${form}: after ${method} can come ${known}, each at most once`);
    }
    settings = { ...settings, ...value };
  }
  return { method, ...settings };
}
