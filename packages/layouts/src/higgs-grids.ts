// The grids of HIGGS (arXiv 2411.17525): the points that codes stand for, which minimise the mean squared error of normally distributed numbers.
// float32, as in transformers 5.23.0 (`integrations/higgs.py`); the order of the points is part of the format.

import { LowbitError } from '@lowbit/core';
import { HIGGS_POINTS } from './higgs-points.ts';

/**
 * The `n` points of the grid of `p` dimensions, [n, p] row by row, as a new array. (p, n) is one of (1, 4), (1, 8), (1, 16), (2, 16), (2, 64), (2, 256):
 * n = 2^(bits * p) with 2, 3 or 4 bits a weight. Throws ERR_UNSUPPORTED_FORMAT for another.
 */
export function higgsGrid(p: number, n: number): Float32Array {
  const name = `${p}-${n}`;
  if (!Object.hasOwn(HIGGS_POINTS, name)) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `HIGGS has no grid of ${n} points in ${p} dimensions`, {
      hint: 'There are grids of 2, 3 and 4 bits a weight in 1 and 2 dimensions.',
      details: { p, n },
    });
  }
  const bytes = Uint8Array.from(atob(HIGGS_POINTS[name]!), (char) => char.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}
