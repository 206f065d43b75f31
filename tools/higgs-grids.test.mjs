// @ts-check
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { generated, lloydMax, planeStatistics, scalarMse, sourceGrids } from './higgs-grids.mjs';

const grids = sourceGrids();
const scalar = grids.filter(({ p }) => p === 1);
const pairs = grids.filter(({ p }) => p === 2);

it('the generated source is up to date', () => {
  expect(readFileSync(new URL('../packages/layouts/src/higgs-points.ts', import.meta.url), 'utf8')).toBe(generated(grids));
});

describe.each(scalar)('$bits bits, scalars', ({ points, mse }) => {
  const shipped = /** @type {number[]} */ (points);

  it('are the Lloyd-Max points', () => {
    const solved = lloydMax(shipped.length);
    for (const [i, point] of shipped.entries()) expect(Math.abs(point - solved[i])).toBeLessThan(1e-6);
    expect(scalarMse(solved)).toBeLessThanOrEqual(scalarMse(shipped) + 1e-15);
  });

  it('have the stated error', () => expect(Math.abs(scalarMse(shipped) - mse)).toBeLessThan(1e-8));
});

describe.each(pairs)('$bits bits, pairs', ({ points, mse }) => {
  const shipped = /** @type {[number, number][]} */ (points);
  const found = planeStatistics(shipped, 0.02);

  it('have the stated error, less than that of scalars', () => {
    expect(Math.abs(found.mse / mse - 1)).toBeLessThan(1e-4);
    expect(found.mse).toBeLessThan(scalar[pairs.findIndex((grid) => grid.points === points)].mse);
  });

  it('are near the centroids of their cells, and a Lloyd step gains next to nothing', () => {
    expect(found.offCentre).toBeLessThan(0.003);
    expect(planeStatistics(found.centroids, 0.02).mse / found.mse).toBeGreaterThan(0.999);
  });
});
