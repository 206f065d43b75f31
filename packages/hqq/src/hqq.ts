// The quantizer itself: settings in, a plain object out.

import { type Affine, type DType, LowbitError, type PartWriter, type Quantizer } from '@lowbit/core';
import { type ErrorSums, finishTile, type Stored, scalesOf, storePlain } from './finish.ts';
import { quantizeMeta } from './meta.ts';
import { type HqqOptions, hqqFormat, settings, weightQuantParams } from './options.ts';
import { type Grid, type GroupSolver, type SolveContext, type StorageDtype, solverOf } from './solver.ts';
import { eachTile, gather, type Layer, scatter, TileStore } from './store.ts';
import { TILE_WEIGHTS, type Tile, type Tiling, tiling } from './tiles.ts';

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
    async quantize(weight, format, out, context) {
      const affine = format as Affine;
      const { scale, zero, levels } = affine;
      const t = tiling(affine, weight.shape);
      assertRoom(t, weight.name, context.budget);
      const layer: Layer = { store: new TileStore(weight, t, context.budget), tiling: t, levels };
      const { signal, routine, importance } = context;
      const solving: SolveContext = {
        signal,
        routine,
        importance,
        shape: weight.shape,
        dtype: { scale: plainDtype(scale), zero: plainDtype(zero) },
      };

      const nested = typeof scale !== 'string' || typeof zero !== 'string';
      const fit = solver.kind === 'groups' ? solver.begin(layer, solving) : undefined;
      const whole = solver.kind === 'layer' ? await solver.solve(layer, solving) : nested ? await fitAll(layer, fit!, signal) : undefined;
      const meta = whole && nested ? await storeMeta(whole, affine, weight.name, out) : {};

      const total: ErrorSums = { squaredError: 0, squaredWeight: 0, maxAbs: 0 };
      await eachTile(layer, signal, async (block, tile) => {
        const grid = whole ? gatherGrid(whole, tile) : fit!(block, tile);
        const stored = (what: 'scale' | 'zero', values: () => Float32Array): Stored => {
          const quantized = meta[what];
          return quantized ? { values: gather(quantized, tile) } : storePlain(values(), solving.dtype[what], weight.name, what);
        };
        const scales = stored('scale', () => scalesOf(grid));
        const zeros = stored('zero', () => grid.zero);
        await finishTile(block, tile, grid, scales, zeros, { tiling: t, levels, out, total });
        context.onWeights?.(tile.groups * t.size);
      });
      return total;
    },
  };
}

/** A group cannot be cut: one that is larger than a whole tile must fit the budget. */
function assertRoom({ size }: Tiling, name: string, budget: number): void {
  if (size <= TILE_WEIGHTS || 4 * size <= budget) return;
  throw new LowbitError('ERR_LIMIT', `${name}: a group of ${size} weights takes ${4 * size} bytes, more than the ${budget} allowed`, {
    hint: 'Choose smaller groups, or allow more memory.',
    details: { tensor: name, groupSize: size, budget },
  });
}

/** Goes up when the same settings would give other bytes. */
const ALGORITHM_VERSION = 1;

/** Dtype that a solver should round to: none narrower than f32 where the numbers are quantized themselves. */
function plainDtype(stored: Affine['scale'] | Affine['zero']): StorageDtype {
  return typeof stored === 'string' ? (stored as StorageDtype) : 'f32';
}

function gatherGrid(grid: Grid, tile: Tile): Grid {
  const zero = gather(grid.zero, tile);
  return grid.codes === 'stored'
    ? { ...grid, scale: gather(grid.scale, tile), zero }
    : { ...grid, inverse: gather(grid.inverse, tile), zero };
}

/** The grid of all groups where it is needed before the first tile can be finished. */
async function fitAll(layer: Layer, fit: ReturnType<GroupSolver['begin']>, signal: AbortSignal | undefined): Promise<Grid> {
  const { groups } = layer.tiling;
  const first = new Float32Array(groups);
  const zero = new Float32Array(groups);
  let codes = 'solved' as Grid['codes'];
  await eachTile(layer, signal, (block, tile) => {
    const grid = fit(block, tile);
    codes = grid.codes;
    scatter(grid.codes === 'stored' ? grid.scale : grid.inverse, tile, first);
    scatter(grid.zero, tile, zero);
  });
  return codes === 'stored' ? { codes, scale: first, zero } : { codes, inverse: first, zero };
}

/** Quantizes and writes the scales and zeros that are to be quantized; their numbers as a reader will find them. */
async function storeMeta(
  grid: Grid,
  { scale, zero }: Affine,
  name: string,
  out: PartWriter,
): Promise<{ readonly scale?: Float32Array; readonly zero?: Float32Array }> {
  const one = async (format: DType | { readonly kind: string } | 'none', what: 'scale' | 'zero', values: () => Float32Array) =>
    typeof format === 'string' ? {} : { [what]: await quantizeMeta(values(), format as Affine, name, what, out) };
  return { ...(await one(zero, 'zero', () => grid.zero)), ...(await one(scale, 'scale', () => scalesOf(grid))) };
}
