// Routines of @lowbit/bnb: packages/bnb/src/coder.ts says what goes in and comes out.

import type { HostTensor } from '@lowbit/core';
import { absmaxKernel, blockErrorsKernel, fourBitKernel, nestedKernel } from '../wgsl/quantize.ts';
import type { GpuRoutine } from './index.ts';
import { bad, bitsOf, bytesAsWords, doubles, f32, f64, floatsOf, runOf, type Weights, wordsAsBytes } from './tensors.ts';
import { runTasks, type Task } from './work.ts';

interface BlockParams {
  readonly size: number;
  readonly shortBlock: 'divide' | 'multiply';
  readonly nested?: { readonly first: number; readonly blocks: number; readonly offset: number | null };
}

export const BNB_ROUTINES: Readonly<Record<string, GpuRoutine>> = {
  'bnb.absmax': async ({ machine }, [weights], params: BlockParams) => {
    const run = blocksOf(weights, params);
    const [absmax] = await runTasks(machine, [run.data], { outputs: [4 * run.blocks] }, ({ inputs, outputs }) => [
      absmaxTask(run, inputs[0]!, outputs[0]!),
    ]);
    return [f32(absmax!)];
  },

  'bnb.four-bit': async ({ machine }, [weights, cuts, codes, values, ...tables], params: BlockParams) => {
    const run = blocksOf(weights, params);
    const { dtype, count, size, blocks, divide } = run;
    const cells = [floatsOf(cuts, 15), bytesAsWords(codes, 16), floatsOf(values, 16)];
    if (codes!.data.some((code) => code > 15)) throw bad('codes of more than 4 bits');
    const nested = params.nested && nestedOf(params.nested, tables, blocks);
    const sizes = [4 * Math.ceil(count / 8), 4 * blocks, 24 * blocks, ...(nested ? [4 * blocks, 4 * blocks] : [])];
    const found = await runTasks(machine, [run.data, ...cells, ...(nested?.tables ?? [])], { outputs: sizes }, ({ inputs, outputs }) => {
      const [packed, absmax, errors, nestedCodes, scale = absmax] = outputs as [number, number, number, number?, number?];
      const [data, boundsAt, codesAt, valuesAt, magnitudes, map, bounds] = inputs;
      const common = { weights: data!, all: count, size, divide, absmax, scale, cuts: boundsAt! };
      const tasks: Task[] = [absmaxTask(run, data!, absmax)];
      if (nested) {
        const places = { absmax, magnitudes: magnitudes!, map: map!, bounds: bounds!, codes: nestedCodes!, scale };
        tasks.push({ kernel: nestedKernel(), values: { count: blocks, ...nested.values, ...places } });
      }
      tasks.push(
        { kernel: fourBitKernel(dtype), values: { ...common, count: Math.ceil(count / 8), codes: codesAt!, out: packed } },
        { kernel: blockErrorsKernel(dtype), values: { ...common, count: blocks, values: valuesAt!, errors } },
      );
      return tasks;
    });
    const [packed, absmax, errors, nestedCodes, scale] = found;
    const bytes = Math.ceil(count / 2);
    const plain: HostTensor[] = [
      { dtype: 'u8', shape: [bytes], data: packed!.slice(0, bytes) },
      f32(absmax!),
      f64([3, blocks], doubles(errors!)),
    ];
    return nested ? [...plain, { dtype: 'u8', shape: [blocks], data: wordsAsBytes(nestedCodes!) }, f32(scale!)] : plain;
  },
};

interface BlockRun extends Weights {
  readonly count: number;
  readonly size: number;
  readonly blocks: number;
  readonly divide: 0 | 1;
}

function absmaxTask({ dtype, count, size, blocks, divide }: BlockRun, weights: number, absmax: number): Task {
  return { kernel: absmaxKernel(dtype), values: { count: blocks, weights, all: count, size, divide, absmax } };
}

function blocksOf(weights: HostTensor | undefined, { size, shortBlock }: BlockParams): BlockRun {
  const run = runOf(weights);
  if (!Number.isInteger(size) || size < 2 || size % 2 !== 0 || size > 2 ** 28) {
    throw bad(`blocks of ${size} weights`, 'Blocks have an even number of weights.');
  }
  return { ...run, size, blocks: Math.ceil(run.count / size), divide: shortBlock === 'divide' ? 1 : 0 };
}

function nestedOf({ first, blocks, offset }: NonNullable<BlockParams['nested']>, tables: readonly HostTensor[], count: number) {
  const whole = [first, blocks].every((value) => Number.isInteger(value) && value >= 0 && value <= 2 ** 31);
  if (!whole || first + count > blocks) throw bad(`${count} blocks from ${first} of ${blocks}`);
  const [magnitudes, map, bounds] = tables;
  return {
    tables: [floatsOf(magnitudes, Math.ceil(blocks / 256)), floatsOf(map, 256), floatsOf(bounds, 255)],
    values: { first, blocks, offset: bitsOf(offset ?? Number.NaN) },
  };
}
