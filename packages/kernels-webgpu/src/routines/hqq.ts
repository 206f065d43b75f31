// Routines of @lowbit/hqq: packages/hqq/src/routines.ts says what goes in and comes out.

import { type HostTensor, LowbitError, toFloat32 } from '@lowbit/core';
import { words64 } from '../wgsl/exact.ts';
import { minMaxKernel, proximalKernels, RECIPROCALS, STEP_SETTINGS } from '../wgsl/quantize-hqq.ts';
import type { GpuRoutine } from './index.ts';
import { power } from './power.ts';
import { bad, bitsOf, bytesAsWords, doubles, f32, f64, floatsOf, floorF32, tileOf, wordsAsBytes } from './tensors.ts';
import { runTasks, type Task } from './work.ts';

interface HqqParams {
  readonly levels: number;
  readonly roundZero: boolean;
  readonly smallRange: boolean;
  readonly norm: number;
  readonly betas: readonly number[];
  readonly lastBeta: number;
}

export const HQQ_ROUTINES: Readonly<Record<string, GpuRoutine>> = {
  'hqq.min-max': async ({ machine }, [weights], { levels, roundZero, smallRange }: HqqParams) => {
    const { data, dtype, groups, size } = tileOf(weights);
    checkLevels(levels);
    const found = await runTasks(machine, [data], { outputs: [4 * groups, 4 * groups] }, ({ inputs, outputs }) => [
      {
        kernel: minMaxKernel(dtype),
        values: {
          ...{ count: groups, weights: inputs[0]!, size, top: levels - 1, round_zero: roundZero ? 1 : 0, small_range: smallRange ? 1 : 0 },
          ...{ small: bitsOf(floorF32(1e-4)), inverse: outputs[0]!, zero: outputs[1]! },
        },
      },
    ]);
    return found.map(f32);
  },

  'hqq.proximal-steps': async ({ machine }, [weights, inverse, zero, settled], { levels, norm, betas, lastBeta }: HqqParams) => {
    const { data, dtype, groups, size } = tileOf(weights);
    checkLevels(levels);
    const steps = betas.length;
    const quiet = [lastBeta, ...betas].map((beta) => deadZone(norm, beta));
    if (steps < 1 || !quiet.every((value) => value > 0 && value < 2 ** 100) || !(norm > 0 && norm <= 1)) {
      throw bad(`steps of p ${norm} and beta ${betas.join(', ')}`);
    }
    const settings = new Uint32Array(STEP_SETTINGS * steps);
    for (const [i, beta] of betas.entries()) {
      settings.set([bitsOf(floorF32(quiet[i + 1]!)), ...words64(1 / beta), beta === lastBeta ? 1 : 0], STEP_SETTINGS * i);
    }
    const grid = [floatsOf(inverse, groups), floatsOf(zero, groups)];
    checkGrid(toFloat32(inverse!), toFloat32(zero!));
    const sent = [data, words(settings), words(RECIPROCALS), ...grid, bytesAsWords(settled, groups)];
    // zeros, still, errors, kinds, beyond; then what steps leave for one another
    const some = [4 * steps * groups, 4 * groups, 8 * steps * groups, 4 * steps * groups, 4 * groups];
    const scratch = [4 * groups, 4 * groups * size, 4 * groups * size, 4 * groups * size];
    const [powerHigh, powerLow] = words64(norm - 1);
    const found = await runTasks(machine, sent, { outputs: some, scratch }, ({ inputs, outputs, scratch: left }) => {
      const [from, settingsAt, reciprocals, inverseAt, zeroAt, settledAt] = inputs as [number, number, number, number, number, number];
      const [zeros, still, errors, kinds, beyond] = outputs as [number, number, number, number, number];
      const [needs, codes, off, terms] = left as [number, number, number, number];
      const common = {
        ...{ groups, size, top: levels - 1, weights: from, settings: settingsAt, reciprocals, inverse: inverseAt, zero: zeroAt },
        ...{ settled: settledAt, quiet: bitsOf(floorF32(quiet[0]!)), norm_one: norm === 1 ? 1 : 0 },
        ...{ power_high: powerHigh, power_low: powerLow, zeros, still, errors, kinds, beyond, needs, codes, off, terms },
      };
      const kernels = proximalKernels(dtype);
      return betas.flatMap((_, k) =>
        kernels.map(({ kernel, of }): Task => ({ kernel, values: { ...common, k, count: of === 'groups' ? groups : groups * size } })),
      );
    });
    const [zeros, still, errors, kinds, beyond] = found;
    if (wordsAsBytes(beyond!).some((one) => one !== 0)) throw tooWide('a weight of 1.3e30 or more');
    return [
      { dtype: 'f32', shape: [steps, groups], data: zeros! } satisfies HostTensor,
      { dtype: 'u8', shape: [groups], data: wordsAsBytes(still!) } satisfies HostTensor,
      f64([steps, 3], stepSums(doubles(errors!), wordsAsBytes(kinds!), steps, groups)),
    ];
  },
};

const words = (values: Uint32Array): Uint8Array => new Uint8Array(values.buffer);

/** Errors of the groups of each step by what became of them, in the order of the groups. */
function stepSums(errors: Float64Array, kinds: Uint8Array, steps: number, groups: number): Float64Array {
  const sums = new Float64Array(3 * steps);
  for (let step = 0; step < steps; step++) {
    let [moving, stopped, left] = [0, 0, 0];
    for (let i = step * groups; i < (step + 1) * groups; i++) {
      if (kinds[i] === 1) {
        moving += errors[i]!;
        left++;
      } else if (kinds[i] === 2) stopped += errors[i]!;
    }
    sums.set([moving, stopped, left], 3 * step);
  }
  return sums;
}

/** |x| up to which the shrinkage gives zero. */
function deadZone(norm: number, beta: number): number {
  return norm === 1 ? 0.99 / beta : 0.99 * power(beta, -1 / (2 - norm));
}

/** What is computed in whole numbers has no infinities: grids that lead to them are left to the TypeScript. Throws ERR_LIMIT. */
function checkGrid(inverse: Float32Array, zero: Float32Array): void {
  for (const [i, s] of inverse.entries()) {
    if (!(s >= 2 ** -110 && s <= 2 ** 20 && Math.abs(zero[i]!) <= 2 ** 120))
      throw tooWide(`an inverse scale of ${s}, a zero of ${zero[i]}`);
  }
}

function tooWide(what: string): LowbitError {
  return new LowbitError('ERR_LIMIT', `kernels-webgpu: ${what} is beyond what the half-quadratic steps on the GPU compute exactly`, {
    hint: 'Quantize this layer without the backend, or keep it with a rule. Weights beyond 1e30 are likely damaged.',
    details: { reason: 'RANGE' },
  });
}

function checkLevels(levels: number): void {
  if (!Number.isInteger(levels) || levels < 2 || levels > 256) throw bad(`${levels} levels`);
}
