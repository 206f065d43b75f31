// Lists of choices and of methods as flags have them: apart from what makes quantizers of them, which --help has no use for.

import { LowbitError } from '@lowbit/core';
import { METHODS, type MethodName, parseChoice, parseUse } from './parse.ts';

/** A list such as `hqq:b3:g64,hqq:b4:g64,keep`. Throws ERR_BAD_ARGUMENT. */
export function parseChoices(text: string): readonly string[] {
  const names = text.split(',').map((name) => name.trim());
  for (const name of names) parseUse(name);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw new LowbitError('ERR_BAD_ARGUMENT', `the choice ${twice} is listed twice`);
  return names;
}

/** What `--methods` takes: methods, and `bnb` for those of bitsandbytes. */
const FAMILIES = [...METHODS, 'bnb'] as const;

/** Methods of a list such as `hqq,bnb,higgs`. Throws ERR_BAD_ARGUMENT. */
export function parseMethods(text: string): readonly MethodName[] {
  const families = text.split(',').map((name) => parseChoice(name.trim(), FAMILIES));
  return [...new Set(families.flatMap((name): readonly MethodName[] => (name === 'bnb' ? ['nf4', 'fp4', 'int8'] : [name])))];
}
