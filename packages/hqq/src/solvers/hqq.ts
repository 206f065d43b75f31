// The default solver: the Python library's `optimize_weights_proximal`, called legacy there.

import type { Layer } from '../layer.ts';
import type { Settings } from '../options.ts';
import type { Grid, LayerSolver, SolveContext } from '../solver.ts';
import type { SolverSettings } from '../solver-options.ts';
import { startingGrid } from './min-max.ts';
import { proximalPasses } from './proximal-pass.ts';

/** Also tells the mean absolute error of the layer found by each step taken. */
export async function solveHqq(
  s: Settings,
  options: Extract<SolverSettings, { name: 'hqq' }>,
  layer: Layer,
  context: Pick<SolveContext, 'signal'>,
): Promise<{ readonly grid: Grid; readonly errors: readonly number[] }> {
  const grid = await startingGrid(s, layer, context.signal);
  const { iterations, norm, kappa } = options;
  const pass = proximalPasses(layer, grid, { norm, beta: options.beta, kappa, iterations }, context);
  const errors: number[] = [];
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < iterations; i++) {
    const error = await pass();
    errors.push(error);
    if (error >= best) break;
    best = error;
  }
  return { grid, errors };
}

/**
 * As in the Python library the zero is replaced before the stop test and not taken back: after a step that did not improve the error of the layer
 * the newest zero stands.
 */
export function hqqSolver(s: Settings, options: Extract<SolverSettings, { name: 'hqq' }>): LayerSolver {
  return { kind: 'layer', solve: async (layer, context) => (await solveHqq(s, options, layer, context)).grid };
}
