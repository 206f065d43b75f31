// A place in the arena for every tensor of a list of launches.

import { type Arena, type ArenaTensor, type Lifetime, placeTensors } from '@lowbit/core';
import type { Launch } from './launches.ts';

const DOMAINS = 5;

/** `kept` tensors live to the end. */
export function placeLaunched(tensors: readonly ArenaTensor[], launches: readonly Launch[], kept: ReadonlySet<number>): Arena {
  const lives: Lifetime[] = [];
  for (const [index, { values }] of launches.entries()) {
    for (const value of Object.values(values)) {
      if (typeof value === 'number') continue;
      const { tensor } = value;
      lives[tensor] = { first: lives[tensor]?.first ?? index, last: kept.has(tensor) ? launches.length : index };
    }
  }
  return placeTensors(tensors, lives, { domains: DOMAINS });
}
