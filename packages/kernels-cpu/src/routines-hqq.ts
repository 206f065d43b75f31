// Routines of @lowbit/hqq: packages/hqq/src/routines.ts says what goes in and comes out.

import { DTYPE_BYTES, elements, hostTensor, isLanePacking, LowbitError, packing, toFloat32 } from '@lowbit/core';
import type { TilePacking } from './binding.ts';
import { type NativeRoutine, tileOf } from './routine-inputs.ts';

/** Settings of all three. */
interface HqqParams {
  readonly levels: number;
  readonly roundZero: boolean;
  readonly smallRange: boolean;
  readonly norm: number;
  readonly betas: readonly number[];
  readonly lastBeta: number;
  readonly tile: {
    readonly packing: string;
    readonly axis: 0 | 1;
    readonly size: number;
    readonly wordRows: number;
    readonly extent: number;
    readonly laneGroups: readonly number[];
  };
}

function packingOf({ packing: name, axis, wordRows, extent, laneGroups }: HqqParams['tile']): TilePacking {
  const found = packing(name);
  if (!isLanePacking(found)) throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `kernels-cpu: cannot write the packing ${name}`);
  const { bitsPerLane: bits, lanes, dtype } = found;
  return { bits, lanes, wordBytes: DTYPE_BYTES[dtype] as 1 | 4, axis, wordRows, extent, laneGroups };
}

export const hqqRoutines: Readonly<Record<string, NativeRoutine>> = {
  'hqq.min-max': async ({ binding, machine }, [weights], { levels, roundZero, smallRange }: HqqParams) => {
    const tile = tileOf(weights);
    const [inverse, zero] = [new Float32Array(tile[2]), new Float32Array(tile[2])];
    await binding.hqqMinMax(machine(), ...tile, levels, roundZero, smallRange, inverse, zero);
    return [inverse, zero].map((values) => hostTensor('f32', [values.length], values));
  },
  'hqq.proximal-steps': async ({ binding, machine }, [weights, inverse, zero, settled], { levels, norm, betas, lastBeta }: HqqParams) => {
    const tile = tileOf(weights);
    const groups = tile[2];
    const zeros = new Float32Array(betas.length * groups);
    const newSettled = new Uint8Array(settled!.data);
    const sums = new Float64Array(betas.length * 3);
    const grid = [toFloat32(inverse!), toFloat32(zero!)] as const;
    await binding.hqqProximalSteps(machine(), ...tile, levels, norm, Float64Array.from(betas), lastBeta, ...grid, zeros, newSettled, sums);
    return [
      hostTensor('f32', [betas.length, groups], zeros),
      hostTensor('u8', [newSettled.length], newSettled),
      hostTensor('f64', [betas.length, 3], sums),
    ];
  },
  'hqq.finish': async ({ binding, machine }, [weights, ...grid], { levels, tile: given }: HqqParams) => {
    const tile = tileOf(weights);
    const target = packingOf(given);
    const words = target.axis === 1 ? target.extent * tile[3] : target.wordRows * target.extent;
    const packed = new Uint8Array(words * target.wordBytes);
    const sums = new Float64Array(3);
    const numbers = grid.map((values) => elements({ dtype: 'f32', data: values.data }));
    await binding.hqqFinish(machine(), ...tile, levels, numbers, target, packed, sums);
    return [hostTensor('u8', [packed.length], packed), hostTensor('f64', [3], sums)];
  },
};
