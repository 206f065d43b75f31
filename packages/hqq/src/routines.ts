// The routines of this package, each on one tile: tensors in, tensors out, no state, so that any thread can run them. The functions that compute are
// beside what they belong to; here are their names, and the way from tensors to arrays.
//
// Weights come as [groups, size] in f32, f16 or bf16. What else comes in and goes out is said at each.
//
// A routine of a backend to which the way is long may have the property `held`, a routine through which the weights of a layer go once:
//   { hold: { dtype, count } } -> a number f64 [1] for all tiles together, or nothing where there is no room: then the routines below are called
//   { held, first, routine, params } -> as that routine; `held` is the number, `first` says how many weights the tiles before have. After its first call the
//   weights of a tile come without bytes
//   { release: held }, when nothing else is under way any more
// Those with the same function there share what is held. A property and no name of its own, since which backend does the work is asked by the routine's name.

import { elements, type HostTensor, hostTensor, type JsonObject, LowbitError, type Routine, readFloat32, toFloat32 } from '@lowbit/core';
import { finishBlock } from './finish-block.ts';
import { type GroupBlock, type MinMaxRules, minMaxGrid } from './grid.ts';
import { tileWeights, type WeighedTile } from './importance.ts';
import { type Fit, fitBlock } from './solvers/least-squares.ts';
import { proximalStep } from './solvers/proximal-step.ts';
import { searchBlock } from './solvers/search-block.ts';
import type { PackedTile } from './tiles.ts';

/** Parameters of a routine: plain data. */
export type TileParams = JsonObject;
type TileRoutine = (inputs: readonly HostTensor[], params: never) => HostTensor[];

/** A routine that a backend has. */
export type BackendRoutine = Routine & { readonly held?: Routine };

/** Parameters of `hqq.proximal-steps`. */
export type Steps = {
  readonly levels: number;
  readonly norm: number;
  /** Of the steps to take. */
  readonly betas: readonly number[];
  /** The largest that beta will become, in this call or later. */
  readonly lastBeta: number;
};

let widened = new Float32Array(0);

/** The weights of a call, valid until the next: routines run one after another and keep nothing. */
function blockOf(weights: HostTensor): GroupBlock {
  const [groups, size] = weights.shape as readonly [number, number];
  if (weights.dtype === 'f32') return { weights: toFloat32(weights), groups, size };
  if (widened.length < groups * size) widened = new Float32Array(groups * size);
  const values = widened.subarray(0, groups * size);
  readFloat32(weights.dtype, weights.data, values);
  return { weights: values, groups, size };
}

function floats(values: Float32Array): HostTensor {
  return hostTensor('f32', [values.length], values);
}

const ROUTINES = {
  /** Weights -> inverse scale, zero: f32 [groups]. A backend's gives an inverse scale of NaN where a group has NaN or infinity; here there are none. */
  'hqq.min-max': ([weights]: readonly HostTensor[], rules: MinMaxRules) => {
    const block = blockOf(weights!);
    const inverse = new Float32Array(block.groups);
    const zero = new Float32Array(block.groups);
    minMaxGrid(block, rules, inverse, zero);
    return [floats(inverse), floats(zero)];
  },
  /**
   * Weights, inverse scale, zero, settled u8 [groups] -> a step for every beta: zeros after each f32 [steps, groups], settled after the last, error sums
   * (moving, stopped) and the number of groups left after each f64 [steps, 3].
   */
  'hqq.proximal-steps': ([weights, inverse, zero, settled]: readonly HostTensor[], params: Steps) => {
    const { levels, norm, betas, lastBeta } = params;
    const block = blockOf(weights!);
    const newSettled = new Uint8Array(settled!.data);
    const zeros = new Float32Array(betas.length * block.groups);
    const sums = new Float64Array(betas.length * 3);
    let before = toFloat32(zero!);
    for (const [i, beta] of betas.entries()) {
      const newZero = zeros.subarray(i * block.groups, (i + 1) * block.groups);
      newZero.set(before);
      const { moving, stopped, left } = proximalStep(block, levels, toFloat32(inverse!), newZero, { norm, beta, lastBeta }, newSettled);
      sums.set([moving, stopped, left], 3 * i);
      before = newZero;
    }
    return [
      hostTensor('f32', [betas.length, block.groups], zeros),
      hostTensor('u8', [newSettled.length], newSettled),
      hostTensor('f64', [betas.length, 3], sums),
    ];
  },
  /** Weights, inverse scale, zero -> inverse scale. */
  'hqq.scale-search': ([weights, inverse, zero]: readonly HostTensor[], params: { readonly levels: number; readonly range: number }) => {
    const found = toFloat32(inverse!).slice();
    searchBlock(blockOf(weights!), params.levels, params.range, found, toFloat32(zero!));
    return [floats(found)];
  },
  /**
   * Weights, with `tile` also the importance of the channels f64 [in] -> scale, zero: numbers of the storage dtypes. A backend's gives a scale of NaN where a
   * group has NaN or infinity; here there are none.
   */
  'hqq.least-squares': ([weights, channels]: readonly HostTensor[], params: Fit & { readonly tile?: WeighedTile }) => {
    const block = blockOf(weights!);
    const scale = new Float32Array(block.groups);
    const zero = new Float32Array(block.groups);
    const { tile } = params;
    const importance = tile && channels && tileWeights(elements({ dtype: 'f64', data: channels.data }), tile);
    fitBlock(block, params, scale, zero, importance);
    return [floats(scale), floats(zero)];
  },
  /** Weights, scale and zero as stored, where `codes` is solved also inverse scale and zero as solved -> packed words u8, error sums f64 [3]. */
  'hqq.finish': (
    [weights, scale, zero, inverse, solved]: readonly HostTensor[],
    params: { readonly levels: number; readonly tile: PackedTile },
  ) => {
    const stored = { scale: toFloat32(scale!), zero: toFloat32(zero!) };
    const grid = inverse && solved && { inverse: toFloat32(inverse), zero: toFloat32(solved) };
    const { words, error } = finishBlock(blockOf(weights!), params.levels, stored, grid, params.tile);
    return [hostTensor('u8', [words.length], words), hostTensor('f64', [3], error)];
  },
} satisfies Readonly<Record<string, TileRoutine>>;

export type RoutineName = keyof typeof ROUTINES;

/** Runs a routine on this thread. Throws ERR_BAD_ARGUMENT for a name that is none. */
export function callHere(name: RoutineName, inputs: readonly HostTensor[], params: TileParams): readonly HostTensor[] {
  if (!Object.hasOwn(ROUTINES, name)) throw new LowbitError('ERR_BAD_ARGUMENT', `hqq: there is no routine ${name}`);
  return (ROUTINES[name] as TileRoutine)(inputs, params as never);
}

/** All routines, as a worker serves them. */
export function servedRoutines(): Readonly<Record<string, Routine>> {
  return Object.fromEntries(
    Object.keys(ROUTINES).map((name): [string, Routine] => [name, async (inputs, params) => callHere(name as RoutineName, inputs, params)]),
  );
}
