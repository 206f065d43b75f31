// The menus that `--target-bits` chooses from: what is written, and what each method offers unasked.

import { LowbitError, type Treatment } from '@lowbit/core';
import { filledSettings, makeQuantizer } from './methods.ts';
import { type Dimension, type MethodName, type MethodSettings, parseUse, type RuleUse } from './parse.ts';

/** One way to store a linear, for `allocateModel`. */
export interface ModelChoice {
  /** As rules have it: `hqq:b4:g64`. */
  readonly name: string;
  readonly use: Treatment;
  /**
   * Squared error over the squared weights that this choice makes of a weight of that shape, where it is known beforehand. Default: every weight is
   * quantized and measured.
   */
  readonly error?: ((shape: readonly [out: number, inp: number]) => number) | undefined;
}

/** Menus by method. Of hqq: the widths whose files hold no more bits than they say, and small groups, which are worth their scales at 2 bits. */
const MENUS: Readonly<Record<MethodName, readonly string[]>> = {
  hqq: ['hqq:b2:g64', 'hqq:b2:g32', 'hqq:b3:g64', 'hqq:b4:g64', 'hqq:b8:g64'],
  nf4: ['nf4:g64:dq', 'nf4:g64', 'int8'],
  fp4: ['fp4:g64:dq', 'fp4:g64', 'int8'],
  int8: ['int8', 'keep'],
  higgs: ['higgs:b2', 'higgs:b3', 'higgs:b4', 'keep'],
};

/** What all of the methods offer together. */
export function choicesAcross(methods: readonly MethodName[], settings: MethodSettings = {}): readonly string[] {
  return [...new Set(methods.flatMap((method) => defaultChoices(method, settings)))].filter((name) => name !== 'keep');
}

/** What the method offers, in groups of that size if one is given. */
export function defaultChoices(method: MethodName, { group }: MethodSettings = {}): readonly string[] {
  const names = MENUS[method];
  return group === undefined ? names : [...new Set(names.map((name) => name.replace(/:g\d+/, `:g${group}`)))];
}

/** What the names stand for. What they leave out is as in `defaults`, the flags of the command. */
export function makeChoices(names: readonly string[], defaults: MethodSettings = {}): readonly ModelChoice[] {
  if (!Array.isArray(names)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'choices are no list of names', { hint: "Pass ['hqq:b3', 'hqq:b4']." });
  }
  return names.map((name: unknown): ModelChoice => {
    if (typeof name !== 'string')
      throw new LowbitError('ERR_BAD_ARGUMENT', `a choice is ${String(name)}, expected a name such as hqq:b4:g64`);
    const use: RuleUse = parseUse(name);
    if (use === 'keep') return { name, use };
    const { method } = use;
    const settings = filledSettings(use, defaults);
    return { name, use: makeQuantizer(method, settings), ...(method === 'higgs' ? { error: higgsError(settings) } : {}) };
  });
}

/** Mean squared error of the grids for N(0, 1), by p and bits: stated with the grids, recomputed in tools/higgs-grids.mjs. */
const HIGGS_MSE: Readonly<Record<Dimension, Readonly<Record<number, number>>>> = {
  1: { 2: 0.117481848, 3: 0.034547761, 4: 0.009501008 },
  2: { 2: 0.107599609, 3: 0.029606166, 4: 0.007750964 },
};

/**
 * HIGGS rotates weights to bell shape, so its error is that of the grid, whatever the weights. What falls on padding is cut off. A last block of c columns
 * rotates to a pattern that repeats after P, the power of two from c on, and so does its error: turned back it fills P columns, c of which stay.
 */
function higgsError({ bits = 4, p = 2, hadamardSize = 512, scale }: MethodSettings): NonNullable<ModelChoice['error']> {
  return ([, inp]) => {
    const rest = inp % hadamardSize;
    const kept = rest === 0 ? 0 : (rest * rest) / 2 ** Math.ceil(Math.log2(rest));
    const mse = HIGGS_MSE[p][bits]!;
    // Points that are longer by 1 / (1 - mse) leave an error across the weights alone, larger by as much.
    return ((scale === 'unbiased' ? mse / (1 - mse) : mse) * (inp - rest + kept)) / inp;
  };
}
