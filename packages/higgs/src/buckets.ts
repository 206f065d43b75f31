// The nearest point of a grid of pairs by buckets: the plane around the origin is cut into square cells, each with the points that can be nearest to
// some place in it, in ascending order of codes. In most cells that is one point, and the code is read off a table.
//
// Scores are linear in x, so a point that beats another at all four corners of a cell does so everywhere in it. A point is left out of a cell if
// another one beats it at all corners by more than scores can be off by rounding: what is left out is never the answer of the definition.

import type { Grid } from './grid.ts';
import { type NearestSearch, nearest2 } from './nearest.ts';

/** Cells cover [-EXTENT, EXTENT) on both axes. One in 8000 pairs of normal numbers lies beyond: for those every point is tried. */
const EXTENT = 4;
/** Times that the plane is halved on either axis. */
const DEPTH = 7;
const SIDE = 2 ** DEPTH;

/** From here on a cell's number is where its list begins; below it is the code of its only point. */
const LIST = 256;

interface Buckets {
  /** [SIDE, SIDE], rows along the second number of a pair. */
  readonly cells: Uint16Array;
  /** A length and that many codes, one list after another. Cells with equal lists share one. */
  readonly lists: Uint8Array;
}

const { fround } = Math;

/** Gives the codes of `bruteForce` for every pair of finite numbers. */
export function bucketSearch(grid: Grid): NearestSearch {
  const { points, norms } = grid;
  const { cells, lists } = buckets(grid);
  const exact = nearest2(grid);
  const perUnit = SIDE / (2 * EXTENT);
  return (vectors, count, codes, at) => {
    for (let i = 0; i < count; i++) {
      const x = vectors[2 * i]!;
      const y = vectors[2 * i + 1]!;
      if (!(x >= -EXTENT && x < EXTENT && y >= -EXTENT && y < EXTENT)) {
        codes[at + i] = exact(x, y);
        continue;
      }
      let best = cells[(((y + EXTENT) * perUnit) | 0) * SIDE + (((x + EXTENT) * perUnit) | 0)]!;
      if (best >= LIST) {
        let entry = best - LIST;
        const end = entry + lists[entry]!;
        let most = Number.NEGATIVE_INFINITY;
        while (entry < end) {
          const c = lists[++entry]!;
          const score = fround(fround(fround(2 * x * points[2 * c]!) + fround(2 * y * points[2 * c + 1]!)) - norms[c]!);
          if (score > most) {
            most = score;
            best = c;
          }
        }
      }
      codes[at + i] = best;
    }
  };
}

/** How many of the cells have a single point, and the most points that one has: for benchmarks and tests. */
export function bucketStatistics(grid: Grid): { readonly cells: number; readonly single: number; readonly most: number } {
  const { cells, lists } = buckets(grid);
  const lengths = Array.from(cells, (cell) => (cell < LIST ? 1 : lists[cell - LIST]!));
  return { cells: cells.length, single: lengths.filter((length) => length === 1).length, most: Math.max(...lengths) };
}

function buckets(grid: Grid): Buckets {
  const cells = new Uint16Array(SIDE * SIDE);
  const lists: number[] = [];
  const known = new Map<string, number>();
  const place = (codes: readonly number[]): number => {
    if (codes.length === 1) return codes[0]!;
    const key = codes.join();
    const found = known.get(key) ?? LIST + lists.length;
    if (!known.has(key)) lists.push(codes.length, ...codes);
    known.set(key, found);
    return found;
  };
  const margin = scoreMargin(grid);
  // From the whole plane down to cells: what is out of a square is out of its quarters.
  const divide = (codes: readonly number[], column: number, row: number, side: number): void => {
    const left = column * ((2 * EXTENT) / SIDE) - EXTENT;
    const bottom = row * ((2 * EXTENT) / SIDE) - EXTENT;
    const kept = contenders(grid, codes, left, bottom, side * ((2 * EXTENT) / SIDE), margin);
    if (side === 1) {
      cells[row * SIDE + column] = place(kept);
      return;
    }
    const half = side / 2;
    for (const [right, up] of [
      [0, 0],
      [half, 0],
      [0, half],
      [half, half],
    ] as const)
      divide(kept, column + right, row + up, half);
  };
  divide(
    Array.from({ length: grid.size }, (_, c) => c),
    0,
    0,
    SIDE,
  );
  return { cells, lists: Uint8Array.from(lists) };
}

/** Those of `codes` that no other one beats by `margin` at all corners of a square. */
function contenders(
  { points, norms }: Grid,
  codes: readonly number[],
  left: number,
  bottom: number,
  side: number,
  margin: number,
): number[] {
  const corners = codes.map((c) => {
    const [px, py] = [2 * points[2 * c]!, 2 * points[2 * c + 1]!];
    const first = px * left + py * bottom - norms[c]!;
    return [first, first + px * side, first + py * side, first + (px + py) * side] as const;
  });
  return codes.filter((_, i) => {
    const [a, b, c, d] = corners[i]!;
    return !corners.some((other) => other[0] > a + margin && other[1] > b + margin && other[2] > c + margin && other[3] > d + margin);
  });
}

/**
 * Twice as far as the difference of two scores can be from the true one within the cells. A score is two products, their sum and a difference, each
 * off by at most 2^-24 of its magnitude: 2 EXTENT |g| for a product, twice that for the sum, and for the difference |g|^2 more.
 */
function scoreMargin({ points, norms }: Grid): number {
  const largest = Math.max(...points.map(Math.abs));
  const longest = Math.max(...norms);
  return 2 * (2 * 2 ** -24 * (3 * 4 * EXTENT * largest + longest));
}
