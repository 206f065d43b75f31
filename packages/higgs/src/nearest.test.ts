// Fast searches give the codes of the definition, always: near ties, at ties, far out, next to zero.

import { seededFloats } from '@lowbit/testing';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bucketSearch, bucketStatistics } from './buckets.ts';
import { type Grid, gridOf } from './grid.ts';
import { midpointSearch } from './midpoints.ts';
import { bruteForce, type NearestSearch } from './nearest.ts';

const GRIDS = [2, 3, 4].flatMap((bits) => [1, 2].map((dim) => gridOf(bits, dim)));
const searches = new Map(GRIDS.map((grid) => [grid, grid.dim === 1 ? midpointSearch(grid) : bucketSearch(grid)]));
const fast = (grid: Grid): NearestSearch => searches.get(grid)!;

function codesOf(search: NearestSearch, grid: Grid, vectors: Float32Array): Uint8Array {
  const codes = new Uint8Array(vectors.length / grid.dim);
  search(vectors, codes.length, codes, 0);
  return codes;
}

function expectEqual(grid: Grid, vectors: Float32Array): void {
  const [found, defined] = [codesOf(fast(grid), grid, vectors), codesOf(bruteForce(grid), grid, vectors)];
  const at = found.findIndex((code, i) => code !== defined[i]);
  const { dim } = grid;
  if (at >= 0) expect.fail(`[${vectors.slice(dim * at, dim * at + dim)}]: ${found[at]}, defined ${defined[at]}`);
}

/** The float32 so many steps above a number. */
function step(value: number, steps: number): number {
  const words = new Int32Array(Float32Array.of(value).buffer);
  words[0]! += words[0]! < 0 ? -steps : steps;
  return new Float32Array(words.buffer)[0]!;
}

/** The definition in float64, of vectors that are nowhere near a tie. */
function nearest64({ points, size, dim }: Grid, vector: Float32Array): number {
  const distances = Array.from({ length: size }, (_, c) => vector.reduce((sum, x, k) => sum + (x - points[dim * c + k]!) ** 2, 0));
  return distances.indexOf(Math.min(...distances));
}

describe.each(GRIDS.map((grid) => [`${grid.bits} bits, p ${grid.dim}`, grid] as const))('%s', (_, grid) => {
  const { points, size, dim } = grid;

  it('defines the point that is nearest', () => {
    const vectors = seededFloats(1, 600 * dim, 3);
    const codes = codesOf(bruteForce(grid), grid, vectors);
    const wrong = [...codes].filter((code, i) => {
      const vector = vectors.slice(dim * i, dim * i + dim);
      const distance = (c: number) => vector.reduce((sum, x, k) => sum + (x - points[dim * c + k]!) ** 2, 0);
      return distance(code) > distance(nearest64(grid, vector)) + 1e-5;
    });
    expect(wrong).toEqual([]);
    expect(new Set(codes).size).toBeGreaterThan(size / 2);
  });

  it('gives a point itself its own code', () => expect([...codesOf(fast(grid), grid, points)]).toEqual([...Array(size).keys()]));

  it('agrees on ordinary numbers', () => expectEqual(grid, seededFloats(2, 1 << 17, 4.2)));

  it('agrees on wide ones', () => expectEqual(grid, seededFloats(3, 1 << 14, 30)));

  it('agrees on any finite numbers', () => {
    const number = fc.float({ noNaN: true, noDefaultInfinity: true });
    const near = fc.float({ noNaN: true, min: -5, max: 5 });
    fc.assert(
      fc.property(fc.array(fc.oneof(number, near), { minLength: dim, maxLength: 64 }), (numbers) => {
        expectEqual(grid, Float32Array.from(numbers.slice(0, numbers.length - (numbers.length % dim))));
      }),
      { numRuns: 300 },
    );
  });

  it('agrees around ties of every two points', () => {
    const vectors: number[] = [];
    for (let a = 0; a < size; a++) {
      for (let b = a + 1; b < size; b += size > 64 ? 5 : 1) {
        const middle = Array.from({ length: dim }, (_, k) => (points[dim * a + k]! + points[dim * b + k]!) / 2);
        for (const steps of [-40, -3, -1, 0, 1, 3, 40]) vectors.push(step(middle[0]!, steps), ...middle.slice(1));
      }
    }
    expectEqual(grid, Float32Array.from(vectors));
  });

  it('agrees around the borders of cells, and beyond them', () => {
    const borders = [...Array(131).keys()].flatMap((i) => [-1, 0, 1].map((steps) => step((i - 65) / 16, steps)));
    const tiny = [0, -0, 1e-45, -1e-45, 1e-40, -1e-40, 3.5, 4, -4, step(4, -1), 22.6, -181, 1e20, -3e38];
    const some = [...borders, ...tiny];
    expectEqual(grid, Float32Array.from(dim === 1 ? some : some.flatMap((x, i) => some.flatMap((y, j) => ((i + j) % 7 ? [] : [x, y])))));
  });

  it('takes the lowest code of several at a tie', () => {
    const zero = codesOf(fast(grid), grid, new Float32Array(dim))[0]!;
    if (dim === 1) expect(zero).toBe(size / 2 - 1);
    else expect(zero).toBe(nearest64(grid, new Float32Array(2)));
  });
});

it('needs one look in most cells', () => {
  const counts = [2, 3, 4].map((bits) => bucketStatistics(gridOf(bits, 2)));
  for (const { cells, single } of counts) expect(single / cells).toBeGreaterThan(0.6);
  expect(Math.max(...counts.map(({ most }) => most))).toBeLessThanOrEqual(8);
});

it('has no other grids', () => {
  expect(() => gridOf(5, 1)).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED_FORMAT' }));
});
