// The settings of methods among the flags of `lowbit quantize`, checked before any model is looked at.

import type { Quantizer } from '@lowbit/core';
import { asUsage, UsageError } from '../errors.ts';
import { findMethod, type MethodPlugin } from '../method-plugin.ts';
import { idleSettings, makeQuantizer, makeRules } from '../methods.ts';
import { METHODS, type MethodName, type MethodSettings, parseUse, SETTINGS } from '../parse.ts';
import { choiceNames } from './allocation.ts';
import { type FilledOptions, hasTarget } from './quantize-recipe.ts';

/** The method that -m names, with the settings that the flags give. */
export interface ChosenMethod {
  readonly settings: MethodSettings;
  /** What rules that say nothing else take. Flags speak of the method that -m names: those of rules are not to have the settings of a stranger's. */
  readonly ofRules: MethodSettings;
  quantizer(): Quantizer;
  /** What stores and reads a method of third parties. */
  readonly parts: Partial<Pick<MethodPlugin, 'layouts' | 'codecs'>>;
}

/**
 * Finds the method, and makes all quantizers once for nothing: what they refuse without having seen a model is wrong usage. Throws a UsageError, and for modules
 * what `findMethod` throws.
 */
export async function chosenMethod(options: FilledOptions): Promise<ChosenMethod> {
  const { method, rules } = options;
  const plugin = typeof method === 'string' ? undefined : await findMethod(method.module);
  const settings = typeof method === 'string' ? flagSettings({ ...options, method }) : givenSettings(options);
  const quantizer = (): Quantizer => (typeof method === 'string' ? makeQuantizer(method, settings) : plugin!.quantizer(settings));
  const ofRules = plugin === undefined ? settings : {};
  asUsage(quantizer);
  for (const rule of rules) {
    asUsage(() => makeRules([rule], ofRules), `--rule ${rule.match}: `);
  }
  return { settings, ofRules, quantizer, parts: plugin === undefined ? {} : { layouts: plugin.layouts, codecs: plugin.codecs } };
}

/** Flags by the settings that they are for. */
export const FLAGS: Readonly<Record<keyof MethodSettings, string>> = {
  bits: '--bits',
  group: '--group',
  axis: '--axis',
  solver: '--solver',
  feedback: '--feedback',
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

/** The settings that were given, for whatever method. */
export function givenSettings(flags: MethodSettings): MethodSettings {
  const names = Object.keys(FLAGS) as (keyof MethodSettings)[];
  return Object.fromEntries(names.flatMap((name) => (flags[name] === undefined ? [] : [[name, flags[name]]])));
}

/** The settings that the flags give. Throws a UsageError for a flag that no method of the command has a use for. */
function flagSettings({ method, rules, ...flags }: Omit<FilledOptions, 'method'> & { readonly method: MethodName }): MethodSettings {
  const settings = givenSettings(flags);
  const uses = [...rules.map(({ use }) => use), ...(hasTarget(flags) ? choiceNames(flags, method, settings).map(parseUse) : [])];
  const methods = [method, ...uses.flatMap((use) => (use === 'keep' ? [] : [use.method]))];
  const [idle] = idleSettings(methods, settings);
  if (idle === undefined) return settings;
  const owners = METHODS.filter((name) => SETTINGS[name].includes(idle)).join(', ');
  const own = SETTINGS[method].map((name) => FLAGS[name]).join(', ');
  throw new UsageError(
    `${FLAGS[idle]} is for ${owners}, not for ${method}`,
    `${method} takes ${own}. Leave ${FLAGS[idle]} out, or choose the method with --method.`,
  );
}
