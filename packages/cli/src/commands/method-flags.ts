// The settings of methods among the flags of `lowbit quantize`, checked before any model is looked at.

import { asUsage, UsageError } from '../errors.ts';
import { idleSetting, makeQuantizer, makeRules } from '../methods.ts';
import { METHODS, type MethodSettings, parseUse, SETTINGS } from '../parse.ts';
import { choiceNames } from './allocation.ts';
import { type FilledOptions, hasTarget } from './quantize-recipe.ts';

/** Makes the quantizers once for nothing: what they refuse without having seen a model is wrong usage. Throws a UsageError. */
export function checkSettings({ method, rules }: FilledOptions, settings: MethodSettings): void {
  asUsage(() => makeQuantizer(method, settings));
  for (const rule of rules) {
    asUsage(() => makeRules([rule], settings), `--rule ${rule.match}: `);
  }
}

/** Flags by the settings that they are for. */
const FLAGS: Readonly<Record<keyof MethodSettings, string>> = {
  bits: '--bits',
  group: '--group',
  axis: '--axis',
  solver: '--solver',
  quantScale: '--quant-scale',
  quantZero: '--quant-zero',
  doubleQuant: '--double-quant',
  scale: '--scale',
  threshold: '--threshold',
  p: '--p',
  hadamardSize: '--hadamard-size',
  computeDtype: '--compute-dtype',
  allowNonFinite: '--allow-non-finite',
};

/** The settings that the flags give. Throws a UsageError for a flag that no method of the command has a use for. */
export function flagSettings({ method, rules, ...flags }: FilledOptions): MethodSettings {
  const { bits, group, axis, solver, quantScale, quantZero, doubleQuant, scale, threshold, computeDtype, allowNonFinite, p, hadamardSize } =
    flags;
  const settings: MethodSettings = {
    ...{ bits, group, axis, solver, quantScale, quantZero },
    ...{ doubleQuant, scale, threshold, computeDtype, allowNonFinite },
    ...{ p, hadamardSize },
  };
  const uses = [...rules.map(({ use }) => use), ...(hasTarget(flags) ? choiceNames(flags, method, settings).map(parseUse) : [])];
  const methods = [method, ...uses.flatMap((use) => (use === 'keep' ? [] : [use.method]))];
  const idle = idleSetting(methods, settings);
  if (idle === undefined) return settings;
  const owners = METHODS.filter((name) => SETTINGS[name].includes(idle)).join(', ');
  const own = SETTINGS[method].map((name) => FLAGS[name]).join(', ');
  throw new UsageError(
    `${FLAGS[idle]} is for ${owners}, not for ${method}`,
    `${method} takes ${own}. Leave ${FLAGS[idle]} out, or choose the method with --method.`,
  );
}
