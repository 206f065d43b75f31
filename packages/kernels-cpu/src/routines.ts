// Routines of @lowbit/hqq in native code, by the names that package gives them: packages/hqq/src/routines.ts says what goes in and comes out. The bytes are
// the same. What this version does not know (weights of another dtype, a packing without lanes) is an error: nothing is computed elsewhere instead.

import {
  DTYPE_BYTES,
  elements,
  type HostTensor,
  hostTensor,
  isLanePacking,
  type JsonObject,
  LowbitError,
  packing,
  type Routine,
  toFloat32,
} from '@lowbit/core';
import type { CpuBinding, Machine, StoredFloat, TileArguments, TilePacking } from './binding.ts';
import { nativeError } from './prepare.ts';

/** Settings of all three. */
interface HqqParams {
  readonly levels: number;
  readonly roundZero: boolean;
  readonly smallRange: boolean;
  readonly norm: number;
  readonly beta: number;
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

function tileOf(weights: HostTensor | undefined): TileArguments {
  const [groups, size] = weights?.shape ?? [];
  const dtype = weights?.dtype;
  if ((dtype === 'f32' || dtype === 'f16' || dtype === 'bf16') && groups !== undefined && size !== undefined) {
    return [weights!.data, dtype satisfies StoredFloat, groups, size];
  }
  throw new LowbitError('ERR_BAD_ARGUMENT', `kernels-cpu: a tile of ${dtype} [${weights?.shape.join(', ')}]`, {
    hint: 'Pass weights [groups, size] in f32, f16 or bf16.',
  });
}

function floats(values: Float32Array): HostTensor {
  return hostTensor('f32', [values.length], values);
}

function packingOf({ packing: name, axis, wordRows, extent, laneGroups }: HqqParams['tile']): TilePacking {
  const found = packing(name);
  if (!isLanePacking(found)) throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `kernels-cpu: cannot write the packing ${name}`);
  const { bitsPerLane: bits, lanes, dtype } = found;
  return { bits, lanes, wordBytes: DTYPE_BYTES[dtype] as 1 | 4, axis, wordRows, extent, laneGroups };
}

/** `machine` throws ERR_DISPOSED when the backend is gone. */
export function hqqRoutines(binding: CpuBinding, machine: () => Machine): ReadonlyMap<string, Routine> {
  const native =
    (run: (inputs: readonly HostTensor[], params: HqqParams) => readonly HostTensor[]): Routine =>
    async (inputs, params: JsonObject) => {
      try {
        return run(inputs, params as unknown as HqqParams);
      } catch (error) {
        throw nativeError(error);
      }
    };
  return new Map([
    [
      'hqq.min-max',
      native(([weights], { levels, roundZero, smallRange }) => {
        const tile = tileOf(weights);
        const [inverse, zero] = [new Float32Array(tile[2]), new Float32Array(tile[2])];
        binding.hqqMinMax(machine(), ...tile, levels, roundZero, smallRange, inverse, zero);
        return [floats(inverse), floats(zero)];
      }),
    ],
    [
      'hqq.proximal-step',
      native(([weights, inverse, zero, settled], { levels, norm, beta, lastBeta }) => {
        const tile = tileOf(weights);
        const newZero = toFloat32(zero!).slice();
        const newSettled = new Uint8Array(settled!.data);
        const sums = new Float64Array(3);
        binding.hqqProximalStep(machine(), ...tile, levels, norm, beta, lastBeta, toFloat32(inverse!), newZero, newSettled, sums);
        return [floats(newZero), hostTensor('u8', [newSettled.length], newSettled), hostTensor('f64', [3], sums)];
      }),
    ],
    [
      'hqq.finish',
      native(([weights, ...grid], { levels, tile: given }) => {
        const tile = tileOf(weights);
        const target = packingOf(given);
        const words = target.axis === 1 ? target.extent * tile[3] : target.wordRows * target.extent;
        const packed = new Uint8Array(words * target.wordBytes);
        const sums = new Float64Array(3);
        binding.hqqFinish(
          machine(),
          ...tile,
          levels,
          grid.map((values) => elements({ dtype: 'f32', data: values.data })),
          target,
          packed,
          sums,
        );
        return [hostTensor('u8', [packed.length], packed), hostTensor('f64', [3], sums)];
      }),
    ],
  ]);
}
