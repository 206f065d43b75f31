// The nearest point of a scalar grid: a table of small cells gives the code at the left end of a number's cell, and comparing with the midpoint above it
// the right one. (A binary search among the midpoints takes a branch that no processor can foresee for every bit of the code.)
//
// Scores are rounded, so next to a midpoint the definition may prefer the farther point. A number that is within a margin of a midpoint is therefore
// looked up by the definition itself; the margin is that of the rounding errors, some 1e-5, so this happens once in ten thousand numbers.

import type { Grid } from './grid.ts';
import { type NearestSearch, nearest1 } from './nearest.ts';

/** Cells cover [-EXTENT, EXTENT); numbers beyond are treated as in the outermost. */
const EXTENT = 4;
/** Narrower than the gap of any two points, so at most one midpoint is in a cell. */
const PER_UNIT = 32;

/** Gives the codes of `bruteForce` for every finite number. */
export function midpointSearch(grid: Grid): NearestSearch {
  const { points, size } = grid;
  const exact = nearest1(grid);
  const middle = new Float64Array(size).fill(Number.POSITIVE_INFINITY);
  // Between low[c] and high[c] code c is right whatever was rounded.
  const low = new Float64Array(size).fill(-TRUSTED);
  const high = new Float64Array(size).fill(TRUSTED);
  const largest = Math.max(...points.map(Math.abs));
  for (let c = 0; c + 1 < size; c++) {
    const gap = points[c + 1]! - points[c]!;
    middle[c] = (points[c]! + points[c + 1]!) / 2;
    // Two scores of magnitudes below 2 |x| g + g^2 and the norms in them, each with a few errors of 2^-24, over the slope 2 * gap of their difference.
    const margin = (2 ** -20 * (2 * Math.abs(middle[c]!) * largest + largest ** 2)) / gap;
    high[c] = middle[c]! - margin;
    low[c + 1] = middle[c]! + margin;
  }
  const last = 2 * EXTENT * PER_UNIT - 1;
  const cells = Uint8Array.from({ length: last + 1 }, (_, cell) => middle.findIndex((bound) => bound >= cell / PER_UNIT - EXTENT));
  return (vectors, count, codes, at) => {
    for (let i = 0; i < count; i++) {
      const x = vectors[i]!;
      let code = cells[x <= -EXTENT ? 0 : x >= EXTENT ? last : ((x + EXTENT) * PER_UNIT) | 0]!;
      if (x > middle[code]!) code++;
      codes[at + i] = x > low[code]! && x < high[code]! ? code : exact(x);
    }
  };
}

/** Beyond it scores might overflow. */
const TRUSTED = 1e30;
