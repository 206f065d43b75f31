// Routines of @lowbit/hqq: packages/hqq/src/routines.ts says what goes in and comes out.

import { DTYPE_BYTES, type HostTensor, isLanePacking, LowbitError, packing } from '@lowbit/core';
import type { Argument, StoredFloat } from './binding.ts';
import { float, int } from './launches.ts';
import {
  bad,
  bytesOf,
  checkCounts,
  checkLevels,
  floatKind,
  type GpuRoutine,
  MOST,
  onDevice,
  part,
  sumColumns,
  tensorOf,
  threads,
  tileOf,
} from './routine-work.ts';

interface HqqParams {
  readonly levels: number;
  readonly roundZero: boolean;
  readonly smallRange: boolean;
  readonly norm: number;
  readonly betas: readonly number[];
  readonly lastBeta: number;
  readonly tile: PackedTile;
}

interface FitParams {
  readonly levels: number;
  readonly alternations: number;
  readonly dtype: { readonly scale: StoredFloat; readonly zero: StoredFloat };
  readonly tile?: WeighedTile;
}

/** As in packages/hqq/src/importance.ts. */
interface WeighedTile {
  readonly axis: 0 | 1;
  readonly size: number;
  readonly columns: number;
  readonly runs: readonly { readonly from: number; readonly to: number }[];
}

/** `PackedTile` of packages/hqq/src/tiles.ts. */
interface PackedTile {
  readonly packing: string;
  readonly axis: 0 | 1;
  readonly size: number;
  readonly wordRows: number;
  readonly extent: number;
  readonly laneGroups: readonly number[];
}

/** Groups of a block of threads, where a group is a thread's. */
const GROUPS = 32;
/** Lanes that work on one group. */
const TEAM = 8;
/** Of the search of scales. */
const CANDIDATES = 129;

export const HQQ_ROUTINES: Readonly<Record<string, GpuRoutine>> = {
  'hqq.min-max': async (home, [weights], { levels, roundZero, smallRange }: HqqParams) => {
    const { data, dtype, groups, size } = tileOf(home, weights);
    checkLevels(levels);
    const list = (at: (index: number) => Argument): readonly Argument[] => [
      ...[at(0), int(dtype), int(groups), int(size), int(levels), int(roundZero ? 1 : 0), int(smallRange ? 1 : 0)],
      ...[at(1), at(2)],
    ];
    const found = await onDevice(home, [data], [4 * groups, 4 * groups], (at) => [threads('hqq_min_max', groups, list(at), GROUPS)]);
    return found.map((values) => tensorOf('f32', [groups], values));
  },
  'hqq.proximal-steps': async (home, [weights, inverse, zero, settled], { levels, norm, betas, lastBeta }: HqqParams) => {
    const { data, dtype, groups, size } = tileOf(home, weights);
    checkLevels(levels);
    const steps = betas.length;
    const settings = Float64Array.of(norm, lastBeta, ...betas);
    if (!settings.every(Number.isFinite) || 3 * steps * groups > MOST) throw bad(`steps of p ${norm} and beta ${betas.join(', ')}`);
    const grid = [bytesOf(settings), part(inverse, 'f32', groups), part(zero, 'f32', groups)];
    const outputs = [4 * steps * groups, part(settled, 'u8', groups), 24 * steps, 24 * steps * groups];
    const launches = (at: (index: number) => Argument) => [
      threads(
        'hqq_proximal',
        groups,
        [at(0), int(dtype), int(groups), int(size), int(levels), int(steps), ...[1, 2, 3, 4, 5, 7].map(at)],
        GROUPS,
      ),
      sumColumns(at(7), groups, 3 * steps, 3 * steps, at(6)),
    ];
    const [zeros, newSettled, sums] = await onDevice(home, [data, ...grid], outputs, launches, 3);
    return [tensorOf('f32', [steps, groups], zeros!), tensorOf('u8', [groups], newSettled!), tensorOf('f64', [steps, 3], sums!)];
  },
  'hqq.scale-search': async (home, [weights, inverse, zero], { levels, range }: { readonly levels: number; readonly range: number }) => {
    const { data, dtype, groups, size } = tileOf(home, weights);
    checkLevels(levels);
    const spacing = Math.fround((2 * range) / (CANDIDATES - 1));
    if (!Number.isFinite(spacing)) throw bad(`a range of ${range}`);
    const inputs = [data, part(inverse, 'f32', groups), part(zero, 'f32', groups)];
    const [found] = await onDevice(home, inputs, [4 * groups], (at) => {
      const list = [at(0), int(dtype), int(groups), int(size), int(levels), float(spacing), at(1), at(2), at(3)];
      return [threads('hqq_scale_search', 32 * groups, list)];
    });
    return [tensorOf('f32', [groups], found!)];
  },
  'hqq.least-squares': async (home, [weights, channels], { levels, alternations, dtype: stored, tile }: FitParams) => {
    const { data, dtype, groups, size } = tileOf(home, weights);
    checkLevels(levels);
    checkCounts({ alternations });
    const weighed = tile && weighing(tile, channels, groups, size);
    const inputs = [data, ...(weighed ? [weighed.channels, bytesOf(weighed.starts)] : [])];
    const first = inputs.length;
    const [scale, zero] = await onDevice(home, inputs, [4 * groups, 4 * groups], (at) => {
      const kinds = [int(floatKind(stored?.scale)), int(floatKind(stored?.zero))];
      const grid = [int(dtype), int(groups), int(size), int(levels), int(alternations), ...kinds, float(fitUnit(size, levels))];
      const meets = weighed ? [at(1), at(2), int(weighed.inp), int(weighed.stride)] : [null, null, int(0), int(0)];
      return [threads('hqq_least_squares', TEAM * groups, [at(0), ...grid, ...meets, at(first), at(first + 1)])];
    });
    return [tensorOf('f32', [groups], scale!), tensorOf('f32', [groups], zero!)];
  },
  'hqq.finish': async (home, [weights, ...grid], { levels, tile: given }: HqqParams) => {
    const { data, dtype, groups, size } = tileOf(home, weights);
    checkLevels(levels);
    if (grid.length !== 2 && grid.length !== 4) throw bad(`a grid of ${grid.length} parts`);
    const { bits, lanes, wordBytes, words, starts } = wordsOf(given, groups, size);
    const { axis, wordRows, extent } = given;
    const inputs = [data, ...grid.map((one) => part(one, 'f32', groups)), bytesOf(starts)];
    const first = inputs.length;
    const outputs = [words * wordBytes, 24, groups * size, 24 * groups];
    const [packed, sums] = await onDevice(
      home,
      inputs,
      outputs,
      (at) => {
        const [wordsAt, sumsAt, codes, errors] = outputs.map((_, i) => at(first + i)) as [Argument, Argument, Argument, Argument];
        const solved = grid.length === 4 ? [at(3), at(4)] : [null, null];
        const head = [at(0), int(dtype), int(groups), int(size), int(levels), at(1), at(2), ...solved, codes, errors];
        const order = [int(axis), int(size), int(wordRows), int(extent), int(lanes), int(bits), int(wordBytes)];
        return [
          threads('hqq_finish', groups, head, GROUPS),
          threads('hqq_pack', words, [codes, ...order, at(first - 1), int(words), wordsAt], 256),
          sumColumns(errors, groups, 3, 2, sumsAt),
        ];
      },
      2,
    );
    return [tensorOf('u8', [packed!.byteLength], packed!), tensorOf('f64', [3], sums!)];
  },
};

/** What values are rounded to beside half of a group's range, so that sums are exact; 0 where they are not rounded. As packages/hqq/src/solvers/code-sums.ts. */
function fitUnit(size: number, levels: number): number {
  const bits = 53 - 20 - (32 - Math.clz32(levels - 1)) - (32 - Math.clz32(size - 1));
  return size > 2 ** 20 || bits < 16 ? 0 : 2 ** -bits;
}

/** Which channel each group's first element meets, and how many further on the next does. Throws ERR_BAD_ARGUMENT. */
function weighing({ axis, size: given, columns, runs }: WeighedTile, channels: HostTensor | undefined, groups: number, size: number) {
  const inp = channels?.shape[0] ?? 0;
  const sum = runs.reduce((total, { from, to }) => total + to - from, 0);
  const whole = runs.every(({ from, to }) => Number.isSafeInteger(from) && Number.isSafeInteger(to) && from >= 0 && from <= to);
  checkCounts({ inp, columns });
  if (inp < 1 || given !== size || !whole || sum !== groups) throw bad(`importance of ${inp} channels for ${groups} groups of ${size}`);
  const starts = new Int32Array(groups);
  let at = 0;
  for (const { from, to } of runs) {
    for (let group = from; group < to; group++) starts[at++] = (axis === 1 ? group * size : group) % inp;
  }
  return { channels: part(channels, 'f64', inp), starts, inp, stride: (axis === 1 ? 1 : columns) % inp };
}

/** How codes of groups become words. Throws ERR_BAD_ARGUMENT where they do not, ERR_UNSUPPORTED_FORMAT for packings that have no lanes. */
function wordsOf({ packing: name, axis, wordRows, extent, laneGroups }: PackedTile, groups: number, size: number) {
  const found = packing(name);
  if (!isLanePacking(found)) throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `kernels-cuda: cannot write the packing ${name}`);
  const { bitsPerLane: bits, lanes, dtype } = found;
  const whole = [wordRows, extent, ...laneGroups].every((value) => Number.isInteger(value) && value >= 0 && value <= MOST);
  const sum = laneGroups.reduce((total, count) => total + count, 0);
  const fits =
    axis === 1
      ? laneGroups.length === lanes && sum === groups && laneGroups.every((count) => count <= extent)
      : extent === groups && size <= lanes * wordRows;
  const words = axis === 1 ? extent * size : wordRows * extent;
  if (!whole || !fits || words < 1 || words > MOST / 4 || lanes * wordRows > MOST)
    throw bad(`${groups} groups of ${size} in ${words} words of ${name}`);
  const starts = new Int32Array(lanes + 1);
  if (axis === 1) for (let lane = 0; lane < lanes; lane++) starts[lane + 1] = starts[lane]! + laneGroups[lane]!;
  return { bits, lanes, wordBytes: DTYPE_BYTES[dtype], words, starts };
}
