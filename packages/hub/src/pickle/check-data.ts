// The last look at what the pickle machine made.

import { Global, type StackValue } from './globals.ts';
import type { Refusals } from './refusals.ts';
import { isDict, isList, type PickleValue } from './values.ts';

/** Throws for names among the data (a class as a value), cycles, and nesting deeper than `depth`. Each object is looked at once. */
export function checkData(root: StackValue, depth: number, { fail, notData }: Refusals): PickleValue {
  const VISITING = -1;
  const heights = new Map<object, number>();
  function height(value: StackValue, level: number): number {
    if (value instanceof Global) throw notData(`the data holds ${value.name} itself`);
    if (!isList(value) && !isDict(value)) return 0;
    const known = heights.get(value);
    if (known === VISITING) throw fail('a list or dictionary holds itself');
    if (level + (known ?? 1) > depth) throw fail(`nested deeper than ${depth}`);
    if (known !== undefined) return known;
    heights.set(value, VISITING);
    let highest = 0;
    for (const item of value.values()) highest = Math.max(highest, height(item, level + 1));
    heights.set(value, highest + 1);
    return highest + 1;
  }
  height(root, 0);
  return root as PickleValue;
}
