// From what was written to quantizers: the one place that knows every method package.

import { fp4, int8, type Nf4Options, nf4 } from '@lowbit/bnb';
import { LowbitError, type Quantizer, type Rule } from '@lowbit/core';
import { type HiggsBits, type HiggsOptions, higgs } from '@lowbit/higgs';
import { hqq } from '@lowbit/hqq';
import { withFeedback } from '@lowbit/models';
import { type Group, type MethodName, type MethodSettings, type RuleText, type RuleUse, type ScaleKind, SETTINGS } from './parse.ts';

const FACTORIES: Readonly<Record<MethodName, (settings: MethodSettings) => Quantizer>> = {
  hqq: ({ bits, group, axis, solver, feedback, quantScale, quantZero }) => {
    const plain = hqq({
      ...(bits === undefined ? {} : { bits }),
      ...(group === undefined ? {} : { groupSize: group === 'none' ? null : group }),
      ...(axis === undefined ? {} : { axis }),
      ...(solver === undefined ? {} : { solver }),
      ...(quantScale === undefined ? {} : { quantScale }),
      ...(quantZero === undefined ? {} : { quantZero: quantZero === 'linear' || quantZero }),
    });
    return feedback === undefined ? plain : withFeedback(plain, { trust: feedback });
  },
  nf4: (settings) => nf4(fourBit('nf4', settings)),
  fp4: (settings) => fp4(fourBit('fp4', settings)),
  int8: ({ threshold, allowNonFinite = false }) => int8({ allowNonFinite, ...(threshold === undefined ? {} : { threshold }) }),
  higgs: ({ bits = 4, p = 2, group, hadamardSize = 512, scale }) =>
    higgs({
      ...{ bits: bits as HiggsBits, p, hadamardSize },
      ...(scale === undefined ? {} : { scale: scale as NonNullable<HiggsOptions['scale']> }), // of another method: refused there
      groupSize: group === undefined ? Math.min(256, hadamardSize) : blockSize('higgs', group),
    }),
};

function fourBit(
  method: MethodName,
  { group, doubleQuant = false, scale, computeDtype = 'f32', allowNonFinite = false }: MethodSettings,
): Nf4Options {
  const searched = scale === undefined ? {} : { scale: scale as NonNullable<Nf4Options['scale']> }; // of another method: refused there
  return { blockSize: blockSize(method, group), doubleQuant, ...searched, computeDtype, allowNonFinite };
}

function blockSize(method: MethodName, group: Group = 64): number {
  if (group !== 'none') return group;
  throw new LowbitError('ERR_BAD_ARGUMENT', `${method} has no blocks of whole rows`, {
    hint: `Give a power of two ${method === 'higgs' ? 'up to the Hadamard size' : 'from 32 to 4096'} as group.`,
  });
}

/** The quantizer of a method, from those of the settings that it has. Throws ERR_BAD_ARGUMENT for values that it refuses. */
export function makeQuantizer(method: MethodName, settings: MethodSettings = {}): Quantizer {
  return FACTORIES[method](settings);
}

/** Kinds of `--scale` by method. */
const SCALES_OF: Readonly<Record<string, readonly (ScaleKind | undefined)[]>> = {
  nf4: ['absmax', 'search'],
  fp4: ['absmax', 'search'],
  higgs: ['norm', 'unbiased'],
};

/** Settings of a rule or choice, filled up with those of the flags; a kind of scale that is for other methods is not taken over, nor feedback by a rule whose own axis or solver has none. */
export function filledSettings(
  { method, ...own }: Exclude<RuleUse, 'keep'>,
  { scale, feedback, ...defaults }: MethodSettings,
): MethodSettings {
  const hasFeedback = method === 'hqq' && own.axis !== 0 && (own.solver === undefined || own.solver === 'least-squares');
  return {
    ...defaults,
    ...(SCALES_OF[method]?.includes(scale) ? { scale } : {}),
    ...(hasFeedback && feedback !== undefined ? { feedback } : {}),
    ...own,
  };
}

/** Rules with their quantizers; what a rule leaves out is as in `defaults`, the flags of the command. */
export function makeRules(texts: readonly RuleText[], defaults: MethodSettings = {}): Rule[] {
  return texts.map(({ match, use }) => {
    if (use === 'keep') return { match, use };
    return { match, use: makeQuantizer(use.method, filledSettings(use, defaults)) };
  });
}

/** The settings that were given, but that none of the methods has. */
export function idleSettings(methods: readonly MethodName[], given: MethodSettings): readonly (keyof MethodSettings)[] {
  const names = Object.keys(given) as (keyof MethodSettings)[];
  return names.filter((name) => given[name] !== undefined && !methods.some((method) => SETTINGS[method].includes(name)));
}
