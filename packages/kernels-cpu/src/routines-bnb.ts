// Routines of @lowbit/bnb: packages/bnb/src/coder.ts says what goes in and comes out.

import { elements, type HostTensor, hostTensor, LowbitError, toFloat32 } from '@lowbit/core';
import type { NestedArguments, RunArguments } from './binding.ts';
import { type NativeRoutine, runOf, tileOf } from './routine-inputs.ts';

interface RowParams {
  readonly few: boolean;
  readonly narrow: boolean;
}

interface BlockParams {
  readonly size: number;
  readonly shortBlock: 'divide' | 'multiply';
}

interface FourBitParams extends BlockParams {
  readonly nested?: { readonly first: number; readonly blocks: number; readonly offset: number | null };
}

/** A mean that is not finite is null: parameters are JSON. */
function nestedArguments(
  { first, blocks, offset }: NonNullable<FourBitParams['nested']>,
  tables: readonly HostTensor[],
  count: number,
): NestedArguments {
  const [magnitudes, map, bounds] = tables.map((table) => toFloat32(table));
  const results = { codes: new Uint8Array(count), scale: new Float32Array(count) };
  return { first, blocks, offset: offset ?? Number.NaN, magnitudes: magnitudes!, map: map!, bounds: bounds!, ...results };
}

function blocksOf(
  weights: HostTensor | undefined,
  { size, shortBlock }: BlockParams,
): { readonly run: RunArguments; readonly blocks: number } {
  const [data, dtype, count] = runOf(weights);
  if (!Number.isSafeInteger(size) || size < 2 || size % 2 !== 0) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `kernels-cpu: blocks of ${size} weights`, { hint: 'Blocks have an even number of weights.' });
  }
  return { run: [data, dtype, count, size, shortBlock === 'divide'], blocks: Math.ceil(count / size) };
}

function floats(values: Float32Array): HostTensor {
  return hostTensor('f32', [values.length], values);
}

export const bnbRoutines: Readonly<Record<string, NativeRoutine>> = {
  'bnb.absmax': async ({ binding, machine }, [weights], params: BlockParams) => {
    const { run, blocks } = blocksOf(weights, params);
    const absmax = new Float32Array(blocks);
    await binding.bnbAbsmax(machine(), ...run, absmax);
    return [floats(absmax)];
  },
  'bnb.four-bit': async ({ binding, machine }, [weights, cuts, codes, values, ...nested], params: FourBitParams) => {
    const { run, blocks } = blocksOf(weights, params);
    const packed = new Uint8Array(Math.ceil(run[2] / 2));
    const [absmax, errors] = [new Float32Array(blocks), new Float64Array(3 * blocks)];
    const tables = [toFloat32(cuts!), elements({ dtype: 'u8', data: codes!.data }), toFloat32(values!)] as const;
    const scales = params.nested && nestedArguments(params.nested, nested, blocks);
    await binding.bnbFourBit(machine(), ...run, ...tables, scales, absmax, packed, errors);
    const outputs = [hostTensor('u8', [packed.length], packed), floats(absmax), hostTensor('f64', [3, blocks], errors)];
    return scales ? [...outputs, hostTensor('u8', [blocks], scales.codes), floats(scales.scale)] : outputs;
  },
  'bnb.int8': async ({ binding, machine }, [weights], { few, narrow }: RowParams) => {
    const tile = tileOf(weights);
    const [, , rows, size] = tile;
    if (rows * size > tile[0].length)
      throw new LowbitError('ERR_BAD_ARGUMENT', `kernels-cpu: ${tile[0].length} bytes are not [${rows}, ${size}]`);
    const [magnitudes, codes, errors] = [new Float32Array(rows), new Uint8Array(rows * size), new Float64Array(3 * rows)];
    await binding.bnbInt8(machine(), ...tile, few, narrow, magnitudes, codes, errors);
    return [floats(magnitudes), hostTensor('u8', [rows, size], codes), hostTensor('f64', [3, rows], errors)];
  },
};
