// Routines of @lowbit/higgs: packages/higgs/src/coder.ts says what goes in and comes out.

import { type HostTensor, LowbitError, toFloat32 } from '@lowbit/core';
import type { StoredFloat } from '../layout.ts';
import { words64 } from '../wgsl/exact.ts';
import { higgsCodeKernel, higgsScaleKernel, higgsSumKernel, MOST_BLOCK } from '../wgsl/quantize-higgs.ts';
import type { GpuRoutine } from './index.ts';
import { bad, bitsOf, doubles, f32, f64, floatsOf, runOf } from './tensors.ts';
import { runTasks } from './work.ts';

interface BlockRun {
  readonly block: number;
  readonly group: number;
  /** Of the scales. */
  readonly dtype: StoredFloat;
  readonly inp: number;
  readonly first: number;
  readonly blocks: number;
}

const isPower = (value: number): boolean => Number.isInteger(Math.log2(value));

export const HIGGS_ROUTINES: Readonly<Record<string, GpuRoutine>> = {
  'higgs.code': async ({ machine }, [weights, points, norms, stored], params: BlockRun) => {
    const { dtype, data, count } = runOf(weights);
    const { block, group, dtype: scaleDtype, inp, first, blocks } = params;
    checkRun(params, count);
    const [size = 0, dim = 0] = points?.shape ?? [];
    if (!(size >= 1 && size <= 256) || (dim !== 1 && dim !== 2) || block < dim) throw bad(`points [${points?.shape.join(', ')}]`);
    const tables = [floatsOf(points, size * dim), floatsOf(norms, size), floatsOf(stored, size * dim)];
    const most = (tensor: HostTensor): number => toFloat32(tensor).reduce((found, x) => Math.max(found, Math.abs(x)), 0);
    const [largest, longest, farthest] = [points!, norms!, stored!].map(most) as [number, number, number];
    if (![largest, longest, farthest].every((x) => x < 2 ** 20)) throw bad('points that are no grid');
    const perRow = Math.ceil(inp / block);
    const vectors = block / dim;
    const perWord = Math.min(4, vectors);
    const words = (blocks * vectors) / perWord;
    const [inverseHigh, inverseLow] = words64(1 / Math.sqrt(block));
    const sizes = [4 * blocks, 8 * blocks, 4 * words, 16 * blocks];
    const room = { outputs: sizes, scratch: [4 * blocks, 8 * count] };
    const found = await runTasks(machine, [data, ...tables], room, ({ inputs, outputs, scratch }) => {
      const [from, pointsAt, normsAt, storedAt] = inputs as [number, number, number, number];
      const [scales, squares, codes, sums] = outputs as [number, number, number, number];
      const [norm, errors] = scratch as [number, number];
      const run = { count: blocks, weights: from, inp, block, per_row: perRow, column: first % perRow };
      const root = bitsOf(Math.sqrt(block));
      const limits = { root, farthest: bitsOf(farthest), norms: norm, scales, squares };
      const grid = { points: pointsAt, point_norms: normsAt, stored: storedAt, size, reach: bitsOf(largest + longest) };
      const made = { inverse_high: inverseHigh, inverse_low: inverseLow, norms: norm, scales, codes, errors };
      return [
        { kernel: higgsScaleKernel(dtype, scaleDtype), values: { ...run, ...limits } },
        { kernel: higgsCodeKernel(dtype, scaleDtype, dim), values: { ...run, ...grid, ...made }, workgroups: blocks },
        { kernel: higgsSumKernel(), values: { ...run, errors, sums } },
      ];
    });
    const [scales, squares, codes, sums] = found;
    const ofBlocks = toFloat32(f32(scales!));
    const perBlock = block / group;
    const spread = new Float32Array(blocks * perBlock);
    for (const [b, scale] of ofBlocks.entries()) spread.fill(scale, b * perBlock, (b + 1) * perBlock);
    return [
      { dtype: 'u8', shape: [blocks * vectors], data: perWord === 4 ? codes! : firstBytes(codes!, perWord) },
      f32(new Uint8Array(spread.buffer)),
      f64([3], sumsOf(ofBlocks, doubles(squares!), doubles(sums!))),
    ];
  },
};

/** Of each word. */
function firstBytes(codes: Uint8Array, count: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length: (codes.length / 4) * count }, (_, i) => codes[4 * Math.floor(i / count) + (i % count)]!);
}

/** Squared errors, squared weights and the largest error, in the order of the blocks; not finite where a weight is not. */
function sumsOf(scales: Float32Array, squares: Float64Array, sums: Float64Array): Float64Array {
  const blocks = scales.length;
  let [error, weight, most] = [0, 0, 0];
  for (let b = 0; b < blocks; b++) {
    error += sums[b]!;
    weight += Number.isNaN(scales[b]!) ? Number.NaN : squares[b]!;
    most = Math.max(most, sums[blocks + b]!);
  }
  return Float64Array.of(error, weight, most);
}

function checkRun({ block, group, dtype, inp, first, blocks }: BlockRun, count: number): void {
  if (block > MOST_BLOCK && isPower(block)) {
    throw new LowbitError('ERR_LIMIT', `kernels-webgpu: Hadamard blocks of ${block} weights, the limit on the GPU is ${MOST_BLOCK}`, {
      hint: 'Use a smaller hadamardSize, or quantize without this backend.',
      details: { block, limit: MOST_BLOCK },
    });
  }
  const whole = [block, group, inp, first, blocks].every((value) => Number.isSafeInteger(value));
  const shaped = whole && block >= 1 && isPower(block) && group >= 1 && block % group === 0 && inp >= 1 && inp <= 2 ** 28 && first >= 0;
  if (!shaped || blocks < 1 || blocks > count || !['f32', 'f16', 'bf16'].includes(dtype)) {
    throw bad(`${blocks} blocks of ${block} from ${first} in groups of ${group}, rows of ${inp}`);
  }
  // What the blocks of the run have: rows of `inp`, whose last block is shorter.
  const perRow = Math.ceil(inp / block);
  const begin = (n: number): number => Math.floor(n / perRow) * inp + (n % perRow) * block;
  if (begin(first + blocks) - begin(first) !== count) throw bad(`${count} weights in ${blocks} blocks of ${block}, rows of ${inp}`);
}
