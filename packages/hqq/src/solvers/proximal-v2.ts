// `optimize_weights_proximal_v2` of the Python library and its `slow` setting: the step of the default solver, but a step that does not improve the
// mean error of the layer is taken back, beta always grows, and scales may be searched first.

import type { Settings } from '../options.ts';
import type { LayerSolver } from '../solver.ts';
import type { SolverSettings } from '../solver-options.ts';
import { startingGrid } from './min-max.ts';
import { proximalPasses } from './proximal-pass.ts';
import { searchScales } from './scale-search.ts';

export function proximalV2(s: Settings, options: Extract<SolverSettings, { name: 'proximal-v2' }>): LayerSolver {
  const { iterations, norm, kappa, tolerance, earlyStop, scaleSearch } = options;
  return {
    kind: 'layer',

    async solve(layer, context) {
      const grid = await startingGrid(s, layer, context.signal);
      if (scaleSearch) await searchScales(layer, grid, context.signal);
      const kept = earlyStop ? grid.zero.slice() : undefined;
      const pass = proximalPasses(layer, grid, { norm, beta: options.beta, kappa, iterations }, context);
      let best = 1e4;
      for (let i = 0; i < iterations; i++) {
        const before = kept && grid.zero.slice();
        const error = await pass();
        if (!kept || !before) continue;
        if (!(best - error > tolerance)) {
          grid.zero.set(kept);
          break;
        }
        best = error;
        kept.set(before); // the zeros that `error` was found with
      }
      return grid;
    },
  };
}
