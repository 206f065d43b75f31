// The quantizer itself: settings in, a plain object out.

import type { Affine, DType, PartWriter, Quantizer } from '@lowbit/core';
import { finishTile, gridOfTile, type Stored, scalesOf, storePlain } from './finish.ts';
import { byGroup, byTile, eachTile, type Layer, ofTile, openLayer } from './layer.ts';
import { quantizeMeta } from './meta.ts';
import { type HqqOptions, hqqFormat, type Settings, settings, weightQuantParams } from './options.ts';
import { type Grid, type GroupSolver, type SolveContext, type StorageDtype, solverOf } from './solver.ts';

/**
 * Half-Quadratic Quantization: a calibration-free, group-wise affine grid with a floating-point zero, w = (q - zero) * scale.
 *
 * @throws ERR_BAD_ARGUMENT for unusable options. The quantizer itself throws ERR_UNSUPPORTED_FORMAT for a shape that groups or packing do not
 * divide, ERR_DTYPE_OVERFLOW when a scale or zero does not fit the storage dtype, and ERR_BAD_ARGUMENT for importance of another weight.
 *
 * @example
 * const q = await quantize(weight, hqq({ bits: 4, groupSize: 64, axis: 1 }));
 * const better = await quantize(weight, hqq({ bits: 4, solver: 'least-squares' }));
 */
export function hqq(options: HqqOptions = {}): Quantizer {
  const s = settings(options);
  const solver = solverOf(s);
  return {
    spec: 1,
    method: 'hqq',
    config: weightQuantParams(s),
    identity: JSON.stringify(['hqq', ALGORITHM_VERSION, s]),
    format: (shape, metaDtype) => hqqFormat(s, shape, metaDtype),
    usesImportance: s.optimize && s.solver.name === 'least-squares',
    worker: WORKER,
    async quantize(weight, format, out, context) {
      const affine = format as Affine;
      const { scale, zero } = affine;
      await using layer = await openLayer(weight, affine, context, startsWithRange(s) ? 'hqq.min-max' : 'hqq.least-squares');
      const { tiling: t } = layer;
      const { signal, importance } = context;
      const solving: SolveContext = {
        signal,
        importance,
        shape: weight.shape,
        dtype: { scale: plainDtype(scale), zero: plainDtype(zero) },
      };

      const nested = typeof scale !== 'string' || typeof zero !== 'string';
      const fit = solver.kind === 'groups' ? solver.begin(layer, solving) : undefined;
      const whole = solver.kind === 'layer' ? await solver.solve(layer, solving) : nested ? await fitAll(layer, fit!, signal) : undefined;
      const meta = whole && nested ? await storeMeta(whole, affine, layer, weight.name, out) : {};

      const errors = await eachTile(layer, signal, async (weights, tile) => {
        const grid = whole ? gridOfTile(whole, tile) : await fit!(weights, tile);
        const stored = (what: 'scale' | 'zero', values: () => Float32Array): Stored => {
          const quantized = meta[what];
          return quantized ? { values: ofTile(quantized, tile) } : storePlain(values(), solving.dtype[what], weight.name, what);
        };
        const scales = stored('scale', () => scalesOf(grid));
        const zeros = stored('zero', () => grid.zero);
        const error = await finishTile(layer, weights, tile, grid, [scales, zeros], out);
        context.onWeights?.(tile.groups * t.size);
        return error;
      });
      return {
        squaredError: errors.reduce((sum, error) => sum + error.squaredError, 0),
        squaredWeight: errors.reduce((sum, error) => sum + error.squaredWeight, 0),
        maxAbs: errors.reduce((most, error) => Math.max(most, error.maxAbs), 0),
      };
    },
  };
}

/** The module that serves this package's routines in worker threads, beside this one in the build. */
const WORKER = new URL('./worker.js', import.meta.url);

/** A solver that begins with the ranges of all groups; others begin with fits. There a backend meets NaN and infinity first. */
function startsWithRange({ optimize, solver }: Settings): boolean {
  return !optimize || solver.name !== 'least-squares';
}

/** Goes up when the same settings would give other bytes. */
const ALGORITHM_VERSION = 5;

/** Dtype that a solver should round to: none narrower than f32 where the numbers are quantized themselves. */
function plainDtype(stored: Affine['scale'] | Affine['zero']): StorageDtype {
  return typeof stored === 'string' ? (stored as StorageDtype) : 'f32';
}

/** The grid of all groups, in tile order, where it is needed before the first tile can be finished. */
async function fitAll(layer: Layer, fit: ReturnType<GroupSolver['begin']>, signal: AbortSignal | undefined): Promise<Grid> {
  const { groups } = layer.tiling;
  const first = new Float32Array(groups);
  const zero = new Float32Array(groups);
  const kinds = await eachTile(layer, signal, async (weights, tile) => {
    const grid = await fit(weights, tile);
    ofTile(first, tile).set(grid.codes === 'stored' ? grid.scale : grid.inverse);
    ofTile(zero, tile).set(grid.zero);
    return grid.codes;
  });
  return kinds[0] === 'stored' ? { codes: 'stored', scale: first, zero } : { codes: 'solved', inverse: first, zero };
}

/** Quantizes and writes the scales and zeros that are to be quantized; their numbers as a reader will find them, in tile order. */
async function storeMeta(
  grid: Grid,
  { scale, zero }: Affine,
  { tiling: t }: Layer,
  name: string,
  out: PartWriter,
): Promise<{ readonly scale?: Float32Array; readonly zero?: Float32Array }> {
  const one = async (format: DType | { readonly kind: string } | 'none', what: 'scale' | 'zero', values: () => Float32Array) =>
    typeof format === 'string' ? {} : { [what]: byTile(await quantizeMeta(byGroup(values(), t), format as Affine, name, what, out), t) };
  return { ...(await one(zero, 'zero', () => grid.zero)), ...(await one(scale, 'scale', () => scalesOf(grid))) };
}
