// From what was written to quantizers: the one place that knows every method package.

import type { Quantizer, Rule } from '@lowbit/core';
import { hqq } from '@lowbit/hqq';
import type { MethodName, MethodSettings, RuleText } from './parse.ts';

const FACTORIES: Readonly<Record<MethodName, (settings: MethodSettings) => Quantizer>> = {
  hqq: ({ bits, group, axis, solver, quantScale, quantZero }) =>
    hqq({
      ...(bits === undefined ? {} : { bits }),
      ...(group === undefined ? {} : { groupSize: group === 'none' ? null : group }),
      ...(axis === undefined ? {} : { axis }),
      ...(solver === undefined ? {} : { solver }),
      ...(quantScale === undefined ? {} : { quantScale }),
      ...(quantZero === undefined ? {} : { quantZero: quantZero === 'layer' || quantZero }),
    }),
};

/** The quantizer of a method. Throws ERR_BAD_ARGUMENT for settings that it does not have. */
export function makeQuantizer(method: MethodName, settings: MethodSettings = {}): Quantizer {
  return FACTORIES[method](settings);
}

/** Rules with their quantizers; what a rule leaves out is as in `defaults`, the flags of the command. */
export function makeRules(texts: readonly RuleText[], defaults: MethodSettings = {}): Rule[] {
  return texts.map(({ match, use }) => {
    if (use === 'keep') return { match, use };
    const { method, ...own } = use;
    return { match, use: makeQuantizer(method, { ...defaults, ...own }) };
  });
}
