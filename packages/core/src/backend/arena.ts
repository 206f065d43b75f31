// A place in one arena for every tensor of a step: those that live at different times share room.

/** A tensor to place. */
export interface ArenaTensor {
  /** Domain, by number. */
  readonly rows: number;
  /** Numbers of a row. */
  readonly width: number;
}

/** The first and the last of the steps of a list that name a tensor. */
export interface Lifetime {
  readonly first: number;
  readonly last: number;
}

/** Places of tensors. */
export interface Arena {
  /** Of each tensor, in numbers of a row; in the arena they are multiplied by the rows of its domain. */
  readonly offsets: readonly number[];
  /** Numbers of a row that all tensors of a domain take together. */
  readonly widths: readonly number[];
}

/**
 * First fit: each tensor, in the order in which they begin, gets the first gap of its width among those of its domain that are alive. One without a lifetime
 * is never read, and has no place. `domains` is how many there are; offsets are multiples of `unit`.
 */
export function placeTensors(
  tensors: readonly ArenaTensor[],
  lifetimes: readonly (Lifetime | undefined)[],
  { domains, unit = 1 }: { readonly domains: number; readonly unit?: number },
): Arena {
  const room = (width: number): number => Math.ceil(width / unit) * unit;
  const offsets = tensors.map(() => 0);
  const widths = new Array<number>(domains).fill(0);
  const starting = [...tensors.keys()].filter((id) => lifetimes[id]).sort((a, b) => lifetimes[a]!.first - lifetimes[b]!.first);
  let alive: number[] = [];
  for (const id of starting) {
    alive = alive.filter((other) => lifetimes[other]!.last >= lifetimes[id]!.first);
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
  return { offsets, widths };
}
