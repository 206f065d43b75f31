// A grid: the points that codes stand for, and what the search of the nearest one needs of them.

import { higgsGrid } from '@lowbit/layouts';

/** Bits per weight. */
export type HiggsBits = 2 | 3 | 4;
/** Numbers of a point: weights that a code stands for. */
export type HiggsDim = 1 | 2;

export interface Grid {
  readonly bits: HiggsBits;
  readonly dim: HiggsDim;
  /** Points: 2^(bits * dim). */
  readonly size: number;
  /** [size, dim], row by row: the point of each code. */
  readonly points: Float32Array;
  /** |point|^2 of each, rounded to float32 once. */
  readonly norms: Float32Array;
}

const made = new Map<string, Grid>();

/** The grid of that many bits a weight. Throws ERR_UNSUPPORTED_FORMAT if there is none. */
export function gridOf(bits: number, dim: number): Grid {
  const name = `${bits}-${dim}`;
  let grid = made.get(name);
  if (grid) return grid;
  const size = 2 ** (bits * dim);
  const points = higgsGrid(dim, size);
  const norms = Float32Array.from({ length: size }, (_, c) => points[c * dim]! ** 2 + (dim === 2 ? points[2 * c + 1]! ** 2 : 0));
  grid = { bits: bits as HiggsBits, dim: dim as HiggsDim, size, points, norms };
  made.set(name, grid);
  return grid;
}
