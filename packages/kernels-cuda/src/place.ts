// A place in the arena for every tensor of a list of launches: those that live at different times share room.

import type { Launch, PlanSpec } from './binding.ts';

export interface PlacedTensor {
  /** Domain, by number. */
  readonly rows: number;
  /** Numbers of 4 bytes. */
  readonly width: number;
}

/** Kernels read 16 bytes at once: every tensor begins at a multiple, whatever its rows. */
const UNIT = 4;
const DOMAINS = 5;

/** `kept` tensors live to the end. */
export function placeTensors(
  tensors: readonly PlacedTensor[],
  launches: readonly Launch[],
  kept: ReadonlySet<number>,
): Pick<PlanSpec, 'tensors' | 'widths'> {
  const first: (number | undefined)[] = [];
  const last: number[] = [];
  for (const [index, { arguments: list }] of launches.entries()) {
    for (const argument of list) {
      if (argument === null || !('tensor' in argument)) continue;
      first[argument.tensor] ??= index;
      last[argument.tensor] = kept.has(argument.tensor) ? launches.length : index;
    }
  }
  const room = (width: number): number => Math.ceil(width / UNIT) * UNIT;
  const offsets = tensors.map(() => 0);
  const widths = new Array<number>(DOMAINS).fill(0);
  const starting = [...tensors.keys()].filter((id) => first[id] !== undefined).sort((a, b) => first[a]! - first[b]!);
  let alive: number[] = [];
  for (const id of starting) {
    alive = alive.filter((other) => last[other]! >= first[id]!);
    const { rows, width } = tensors[id]!;
    const taken = alive.filter((other) => tensors[other]!.rows === rows).sort((a, b) => offsets[a]! - offsets[b]!);
    let at = 0;
    for (const other of taken) {
      if (offsets[other]! - at >= room(width)) break;
      at = offsets[other]! + room(tensors[other]!.width);
    }
    offsets[id] = at;
    widths[rows] = Math.max(widths[rows]!, at + room(width));
    alive.push(id);
  }
  // A tensor that nobody names has no room and is never read.
  return {
    tensors: tensors.map(({ rows, width }, id) => ({ rows, width: first[id] === undefined ? 0 : width, offset: offsets[id]! })),
    widths,
  };
}
