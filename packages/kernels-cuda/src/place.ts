// A place in the arena for every tensor of a list of launches.

import { type ArenaTensor, type Lifetime, placeTensors } from '@lowbit/core';
import type { Launch, PlanSpec } from './binding.ts';

/** Kernels read 16 bytes at once: every tensor begins at a multiple, whatever its rows. */
const UNIT = 4;
const DOMAINS = 5;

/** `kept` tensors live to the end; one that nobody names has no room and is never read. */
export function placeLaunched(
  tensors: readonly ArenaTensor[],
  launches: readonly Launch[],
  kept: ReadonlySet<number>,
): Pick<PlanSpec, 'tensors' | 'widths'> {
  const lives: Lifetime[] = [];
  for (const [index, { arguments: list }] of launches.entries()) {
    for (const argument of list) {
      if (argument === null || !('tensor' in argument)) continue;
      const { tensor } = argument;
      lives[tensor] = { first: lives[tensor]?.first ?? index, last: kept.has(tensor) ? launches.length : index };
    }
  }
  const { offsets, widths } = placeTensors(tensors, lives, { domains: DOMAINS, unit: UNIT });
  return {
    tensors: tensors.map(({ rows, width }, id) => ({ rows, width: lives[id] ? width : 0, offset: offsets[id]! })),
    widths: [...widths],
  };
}
