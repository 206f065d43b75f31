// Routines of feedback and of second moments: packages/models/src/feedback/routines.ts and evaluate/squares.ts say what goes in and comes out.

import { type HostTensor, hostTensor, LowbitError, toFloat32 } from '@lowbit/core';
import type { ChannelArguments, StoredFloat } from './binding.ts';
import type { NativeRoutine } from './routine-inputs.ts';

interface GroupParams {
  readonly from: number;
  readonly size: number;
  readonly levels: number;
}

interface DescentParams {
  readonly size: number;
  readonly levels: number;
  readonly sweeps: number;
  readonly scaleDtype: StoredFloat;
  readonly zeroDtype: StoredFloat;
}

/** A matrix as it is in memory. Throws ERR_BAD_ARGUMENT. */
function matrixOf(tensor: HostTensor | undefined): readonly [values: Float32Array, rows: number, columns: number] {
  const [rows, columns] = tensor?.shape ?? [];
  if (tensor?.dtype === 'f32' && rows !== undefined && columns !== undefined) return [toFloat32(tensor), rows, columns];
  throw new LowbitError('ERR_BAD_ARGUMENT', `kernels-cpu: a matrix cannot be ${tensor?.dtype} [${tensor?.shape.join(', ')}]`, {
    hint: 'Pass f32 of two dimensions.',
  });
}

const numbersOf = (tensor: HostTensor | undefined): Float32Array => (tensor?.dtype === 'f32' ? toFloat32(tensor) : new Float32Array(0));

export const feedbackRoutines: Readonly<Record<string, NativeRoutine>> = {
  'feedback.factor': async ({ binding, machine }, [matrix]) => {
    const [values, n, columns] = matrixOf(matrix);
    if (n !== columns) throw new LowbitError('ERR_BAD_ARGUMENT', `kernels-cpu: a matrix of moments cannot be [${n}, ${columns}]`);
    const [coupling, cost] = [new Float32Array(n * n), new Float64Array(n)];
    await binding.feedbackFactor(machine(), values, n, coupling, cost);
    return [hostTensor('f32', [n, n], coupling), hostTensor('f64', [n], cost)];
  },
  'feedback.targets': async ({ binding, machine }, [weights, errors, coupling], { from, size }: GroupParams) => {
    const [values, rows, channels] = matrixOf(weights);
    const targets = new Float32Array(rows * size);
    const group: ChannelArguments = [rows, channels, from, size];
    await binding.feedbackTargets(machine(), ...group, values, numbersOf(errors), numbersOf(coupling), targets);
    return [hostTensor('f32', [rows, size], targets)];
  },
  'feedback.codes': async ({ binding, machine }, [targets, weights, scale, zero, coupling], { from, size, levels }: GroupParams) => {
    const [values, rows, channels] = matrixOf(weights);
    const [codes, errors] = [new Uint8Array(rows * size), new Float32Array(rows * size)];
    const inputs = [numbersOf(targets), values, numbersOf(scale), numbersOf(zero), numbersOf(coupling)] as const;
    await binding.feedbackCodes(machine(), rows, channels, from, size, levels, ...inputs, codes, errors);
    return [hostTensor('u8', [rows, size], codes), hostTensor('f32', [rows, size], errors)];
  },
  'feedback.descend': async ({ binding, machine }, [weights, codes, scale, zero, moments, own], params: DescentParams) => {
    const [values, rows, channels] = matrixOf(weights);
    const { size, levels, sweeps, scaleDtype, zeroDtype } = params;
    const found = codes?.dtype === 'u8' ? Uint8Array.from(codes.data) : new Uint8Array(0);
    const grid = [Float32Array.from(numbersOf(scale)), Float32Array.from(numbersOf(zero))] as const;
    const errors = new Float32Array(rows * channels);
    const how = [rows, channels, size, levels, sweeps, scaleDtype, zeroDtype] as const;
    await binding.feedbackDescend(machine(), ...how, values, numbersOf(moments), numbersOf(own), found, ...grid, errors);
    const numbers = grid.map((of) => hostTensor('f32', [rows, channels / size], of));
    return [hostTensor('u8', [rows, channels], found), ...numbers, hostTensor('f32', [rows, channels], errors)];
  },
  'moments.squares': async ({ binding, machine }, [x]) => {
    const [values, rows, width] = matrixOf(x);
    const sums = new Float64Array(width * width);
    await binding.momentsSquares(machine(), values, rows, width, sums);
    return [hostTensor('f64', [width, width], sums)];
  },
};
