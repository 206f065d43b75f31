// Runs of blocks into codes: here, on worker threads, or by a backend that has the routine. The bytes and the reported errors are the same.
//
// Routine of a backend: `higgs.code`, weights of a run [n] in f32, f16 or bf16, the points of the grid f32 [size, dim], their squared lengths f32 [size], and
// the points as they are stored f32 [size, dim], with a `BlockRun` -> codes u8 [blocks * block / dim], scales as stored f32 [blocks * block / group], infinite
// for a block whose scale does not fit, and sums f64 [3] of squared errors and squared weights, which is not finite if a weight is not, and the largest error.
// `codeBlocks` says what it computes.

import {
  assertFinite,
  elements,
  type HostTensor,
  hostTensor,
  type Routine,
  type RoutinePool,
  toFloat32,
  type WeightReader,
} from '@lowbit/core';
import { type BlockRun, type CodedRun, codeBlocks, storedPoints } from './code-blocks.ts';
import { gridOf } from './grid.ts';
import { higgsCode } from './routines.ts';
import { RunMemory } from './run-memory.ts';
import type { Run } from './runs.ts';

/** What all runs of a weight share. */
export type RunSettings = Omit<BlockRun, 'first' | 'blocks'>;

export interface RunCoder extends Disposable {
  /** Throws ERR_NON_FINITE, and ERR_DTYPE_OVERFLOW for a scale that does not fit. */
  code(run: Run): Promise<CodedRun>;
}

/** Codes on this thread, or those of `workers`. `most`: weights of the longest run. */
export function coderHere(weight: WeightReader, settings: RunSettings, most: number, workers: RoutinePool | undefined): RunCoder {
  const memory = new RunMemory(workers, most);
  const routine = workers?.routine('higgs.code') ?? higgsCode;
  return {
    async code({ from, to, first, blocks }) {
      const values = memory.take(to - from);
      await weight.read(from, to, values);
      const outputs = await routine([hostTensor('f32', [values.length], values)], { ...settings, first, blocks });
      memory.give(values);
      return codedRun(outputs);
    },
    [Symbol.dispose]: () => memory[Symbol.dispose](),
  };
}

/** Codes by a backend's routine, which gets the weights as they are stored where that can be had. */
export function backedCoder(weight: WeightReader, settings: RunSettings, most: number, routine: Routine): RunCoder {
  const { name, dtype } = weight;
  const grid = gridOf(settings.bits, settings.p);
  const tables = [
    hostTensor('f32', [grid.size, grid.dim], grid.points),
    hostTensor('f32', [grid.size], grid.norms),
    hostTensor('f32', [grid.size, grid.dim], storedPoints(grid, settings.dtype)),
  ];
  const stored = weight.readStored && (dtype === 'f32' || dtype === 'f16' || dtype === 'bf16');
  const memory = new RunMemory(undefined, most);
  return {
    async code({ from, to, first, blocks }) {
      const count = to - from;
      const values = stored ? undefined : memory.take(count);
      if (values) await weight.read(from, to, values);
      const weights: HostTensor = values
        ? hostTensor('f32', [count], values)
        : { dtype, shape: [count], data: await weight.readStored!(from, to) };
      const run = { ...settings, first, blocks };
      const coded = codedRun(await routine([weights, ...tables], run));
      if (Number.isFinite(coded.error[1]) && coded.scales.every(Number.isFinite)) {
        if (values) memory.give(values);
        return coded;
      }
      // The definition says what is wrong, and where.
      const found = toFloat32(weights);
      assertFinite(name, found, 0, count, from);
      return codeBlocks(found, run);
    },
    [Symbol.dispose]: () => memory[Symbol.dispose](),
  };
}

function codedRun([codes, scales, error]: readonly HostTensor[]): CodedRun {
  return { codes: codes!.data, scales: toFloat32(scales!), error: elements({ dtype: 'f64', data: error!.data }) };
}
