// What a solver is to the rest of the package: a way to find the grid of every group of a weight that comes in tiles.
//
// Two kinds, by what couples the groups. A `groups` solver looks at one group at a time, so each tile is solved and written as it is read. A `layer`
// solver needs something of the whole weight (HQQ stops when the mean error of the layer stops falling): it goes over the tiles several times and
// keeps only the grid. Either way tiles follow from format and shape alone and sums are taken tile by tile in float64, so the bytes do not depend on
// the memory given. decisions/007.

import type { HostTensor, Importance, Matrix, QuantizeContext } from '@lowbit/core';
import type { Layer } from './layer.ts';
import type { Settings } from './options.ts';
import { hqqSolver } from './solvers/hqq.ts';
import { leastSquares } from './solvers/least-squares.ts';
import { minMax } from './solvers/min-max.ts';
import { proximalV2 } from './solvers/proximal-v2.ts';
import type { Tile } from './tiles.ts';

/** Dtypes that scales and zeros are stored in. */
export type StorageDtype = 'f32' | 'f16' | 'bf16';

/**
 * Grids of groups, f32 [groups] each: of one tile, or of all in tile order.
 *
 * `solved`: codes are round(w * inverse + zero) with the numbers the solver found, and rounding scale and zero for storage comes after, as in Python.
 * `stored`: codes are the nearest to what is stored.
 */
export type Grid =
  | { readonly codes: 'solved'; readonly inverse: Float32Array; readonly zero: Float32Array }
  | { readonly codes: 'stored'; readonly scale: Float32Array; readonly zero: Float32Array };

/** What a solver may know of the weight besides its numbers. */
export interface SolveContext extends Pick<QuantizeContext, 'signal'> {
  readonly shape: Matrix;
  readonly importance?: Importance | undefined;
  /** What scales and zeros will be rounded to; f32 where they are quantized themselves. */
  readonly dtype: { readonly scale: StorageDtype; readonly zero: StorageDtype };
}

/** Solves whole weights: groups depend on one another. */
export interface LayerSolver {
  readonly kind: 'layer';
  solve(layer: Layer, context: SolveContext): Promise<Grid>;
}

/** Solves group by group. `begin` is called once a weight, the function it gives once a tile. */
export interface GroupSolver {
  readonly kind: 'groups';
  begin(layer: Layer, context: SolveContext): (weights: HostTensor, tile: Tile) => Promise<Grid>;
}

export type Solver = LayerSolver | GroupSolver;

/** The solver that the settings ask for. */
export function solverOf(s: Settings): Solver {
  if (!s.optimize) return minMax(s);
  switch (s.solver.name) {
    case 'hqq':
      return hqqSolver(s, s.solver);
    case 'proximal-v2':
      return proximalV2(s, s.solver);
    case 'least-squares':
      return leastSquares(s.solver);
  }
}
