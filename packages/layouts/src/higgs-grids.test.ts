import { readFileSync } from 'node:fs';
import { isLowbitError } from '@lowbit/core';
import { expect, test } from 'vitest';
import { higgsGrid } from './higgs-grids.ts';

interface Source {
  readonly grids: readonly { readonly bits: number; readonly p: number; readonly points: readonly (number | readonly number[])[] }[];
}

test('the grids are those of the checked-in source, each a new array', () => {
  const source = JSON.parse(readFileSync(new URL('../../../tools/higgs-grids.json', import.meta.url), 'utf8')) as Source;
  expect(source.grids).toHaveLength(6);
  for (const { bits, p, points } of source.grids) {
    const grid = higgsGrid(p, 2 ** (bits * p));
    expect(grid).toEqual(Float32Array.from(points.flat()));
    expect(higgsGrid(p, 2 ** (bits * p))).not.toBe(grid);
  }
});

test.each([
  [1, 256],
  [3, 64],
  [0, 4],
])('no grid of %i dimensions with %i points', (p, n) => {
  try {
    higgsGrid(p, n);
    expect.unreachable();
  } catch (error) {
    expect(isLowbitError(error, 'ERR_UNSUPPORTED_FORMAT')).toBe(true);
  }
});
