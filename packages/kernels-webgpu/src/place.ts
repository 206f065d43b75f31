// A place in the arena for every tensor of a list of launches: those that live at different times share room.

import type { Launch } from './launches.ts';

export interface ArenaTensor {
  /** Domain, by number. */
  readonly rows: number;
  /** Numbers of a row. */
  readonly width: number;
}

export interface Arena {
  /** Of each tensor, in numbers of a row; that of the domain times its rows comes before. */
  readonly offsets: readonly number[];
  /** Numbers of a row that all tensors of a domain take together. */
  readonly widths: readonly number[];
}

const DOMAINS = 5;

/** `kept` tensors live to the end. */
export function placeTensors(tensors: readonly ArenaTensor[], launches: readonly Launch[], kept: ReadonlySet<number>): Arena {
  const first: (number | undefined)[] = [];
  const last: number[] = [];
  for (const [index, { values }] of launches.entries()) {
    for (const value of Object.values(values)) {
      if (typeof value === 'number') continue;
      first[value.tensor] ??= index;
      last[value.tensor] = kept.has(value.tensor) ? launches.length : index;
    }
  }
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
      if (offsets[other]! - at >= width) break;
      at = offsets[other]! + tensors[other]!.width;
    }
    offsets[id] = at;
    widths[rows] = Math.max(widths[rows]!, at + width);
    alive.push(id);
  }
  return { offsets, widths };
}
