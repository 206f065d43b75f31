// Finding the cell of a scaled weight without searching: the range [-1, 1] is divided into 1024 buckets narrow enough to hold one cut at most, so a
// table by bucket gives the cell up to one comparison.

import type { Cells } from './tables.ts';

/** Buckets per unit. A power of two, so that scaling a float32 by it is exact. */
export const BUCKETS = 512;

/** `cell = first[s * 512 + 512 | 0]`, one more if s is above `cuts[cell]`; for s in [-1.001, 1.001]. */
export interface CellFinder {
  readonly first: Uint8Array;
  /** 16 bounds: those of the cells, then infinity. */
  readonly cuts: Float64Array;
  readonly codes: Uint8Array;
  readonly values: Float32Array;
}

/** Numbers next to a bucket's lower end may be rounded into it, so a cut this near belongs to the buckets on both sides. */
const MARGIN = 2 ** -30;

/** The finder of a table's cells. */
export function cellFinder({ cuts, codes, values }: Cells): CellFinder {
  const first = Uint8Array.from({ length: 2 * BUCKETS + 1 }, (_, bucket) => {
    const low = (bucket - BUCKETS) / BUCKETS - MARGIN;
    const inside = cuts.filter((cut) => cut >= low && cut < low + 1 / BUCKETS + 2 * MARGIN).length;
    if (inside > 1) throw new Error(`internal: ${inside} cuts in bucket ${bucket}`);
    return cuts.filter((cut) => cut < low).length;
  });
  return { first, cuts: Float64Array.of(...cuts, Number.POSITIVE_INFINITY), codes, values };
}
