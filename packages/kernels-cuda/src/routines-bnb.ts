// Routines of @lowbit/bnb: packages/bnb/src/coder.ts and int8-coder.ts say what goes in and comes out.

import type { HostTensor } from '@lowbit/core';
import type { Argument, Launch } from './binding.ts';
import { float, int } from './launches.ts';
import {
  bad,
  badWeights,
  checkCounts,
  type GpuRoutine,
  MOST,
  onDevice,
  part,
  type RoutineHome,
  tensorOf,
  threads,
  tileOf,
  weightsOf,
} from './routine-work.ts';

interface RowParams {
  readonly few: boolean;
  readonly narrow: boolean;
}

interface SearchParams extends Omit<BlockParams, 'shortBlock'> {
  /** Flat index of the first weight. */
  readonly from: number;
  /** Channels with an importance. */
  readonly channels: number;
}

interface BlockParams {
  readonly size: number;
  readonly shortBlock: 'divide' | 'multiply';
  readonly nested?: { readonly first: number; readonly blocks: number; readonly offset: number | null };
}

/** Lanes that work on one block. */
const TEAM = 8;

export const BNB_ROW_ROUTINES: Readonly<Record<string, GpuRoutine>> = {
  'bnb.int8': async (home, [weights], { few, narrow }: RowParams) => {
    const { data, dtype, groups: rows, size } = tileOf(home, weights);
    const [magnitudes, codes, errors] = await onDevice(home, [data], [4 * rows, rows * size, 24 * rows], (at) => {
      const list = [at(0), int(dtype), int(rows), int(size), int(few ? 1 : 0), int(narrow ? 1 : 0), at(1), at(2), at(3)];
      return [{ kernel: 'bnb_int8', grid: [rows, 1, 1], block: 32, arguments: list }]; // a warp a row
    });
    return [tensorOf('f32', [rows], magnitudes!), tensorOf('u8', [rows, size], codes!), tensorOf('f64', [3, rows], errors!)];
  },
};

/** Doubly quantized blocks are gone over twice. */
export const BNB_BLOCK_ROUTINES: Readonly<Record<string, GpuRoutine>> = {
  'bnb.absmax': async (home, [weights], params: BlockParams) => {
    const run = blocksOf(home, weights, params);
    const [absmax] = await onDevice(home, [run.data], [4 * run.blocks], (at) => [absmaxLaunch(run, at(0), at(1))]);
    return [tensorOf('f32', [run.blocks], absmax!)];
  },
  'bnb.four-bit': async (home, [weights, ...cells], params: BlockParams) => {
    const run = blocksOf(home, weights, params);
    return coded(home, run, cells, params.nested, [], (at, absmax) => absmaxLaunch(run, at(0), absmax));
  },
  'bnb.scale-search': async (home, [weights, cuts, values, ...more], params: SearchParams) => {
    const run = blocksOf(home, weights, { ...params, shortBlock: 'multiply' });
    const [channels] = channelsOf(params, more);
    const inputs = [run.data, part(cuts, 'f32', 15), part(values, 'f32', 16), ...channels];
    const [scales] = await onDevice(home, inputs, [4 * run.blocks], (at) => [
      searchLaunch(
        run,
        params,
        { weights: at(0), cuts: at(1), values: at(2), channels: channels.length > 0 ? at(3) : null },
        at(inputs.length),
      ),
    ]);
    return [tensorOf('f32', [run.blocks], scales!)];
  },
  'bnb.searched': async (home, [weights, cuts, codes, values, ...more], params: SearchParams) => {
    const run = blocksOf(home, weights, { ...params, shortBlock: 'multiply' });
    const [channels, tables] = channelsOf(params, more);
    return coded(home, run, [cuts, codes, values, ...tables], params.nested, channels, (at, scale, channelsAt) =>
      searchLaunch(run, params, { weights: at(0), cuts: at(1), values: at(3), channels: channelsAt }, scale),
    );
  },
};

/** Codes of blocks, by magnitudes or scales that `scaled` finds first; `channels`: their importance, if there is one. */
async function coded(
  home: RoutineHome,
  run: BlockRun,
  [cuts, codes, values, ...given]: readonly (HostTensor | undefined)[],
  nesting: BlockParams['nested'],
  channels: readonly Uint8Array[],
  scaled: (at: (index: number) => Argument, absmax: Argument, channels: Argument) => Launch,
): Promise<readonly HostTensor[]> {
  const { count, blocks } = run;
  const cells = [part(cuts, 'f32', 15), part(codes, 'u8', 16), part(values, 'f32', 16)];
  if (cells[1]!.some((code) => code > 15)) throw bad('codes of more than 4 bits');
  const nested = nesting && nestedOf(nesting, given, blocks);
  const inputs = [run.data, ...cells, ...(nested?.tables ?? []), ...channels];
  const first = inputs.length;
  const outputs = [Math.ceil(count / 2), 4 * blocks, 24 * blocks, ...(nested ? [blocks, 4 * blocks] : [])];
  const found = await onDevice(home, inputs, outputs, (at) => {
    const [packed, absmax, errors, nestedCodes, scale] = outputs.map((_, i) => at(first + i));
    const inner = nested && [absmax!, ...nested.list(blocks), at(4), at(5), at(6), nestedCodes!, scale!];
    const by = scale ?? absmax!;
    const head = [at(0), int(run.dtype), int(count), int(run.size)];
    const tail = [at(1), at(2), at(3), packed!, errors!];
    return [
      scaled(at, absmax!, channels.length > 0 ? at(first - 1) : null),
      ...(inner ? [threads('bnb_nested', blocks, inner)] : []),
      run.searched
        ? threads('bnb_clipped', blocks, [...head, by, ...tail])
        : threads('bnb_four_bit', blocks, [...head, int(run.divide), absmax!, by, ...tail]),
    ];
  });
  const [packed, absmax, errors, nestedCodes, scale] = found;
  const plainOutputs = [
    tensorOf('u8', [packed!.byteLength], packed!),
    tensorOf('f32', [blocks], absmax!),
    tensorOf('f64', [3, blocks], errors!),
  ];
  return nested ? [...plainOutputs, tensorOf('u8', [blocks], nestedCodes!), tensorOf('f32', [blocks], scale!)] : plainOutputs;
}

/** The importance of channels, where there is one, and what comes after it. Throws ERR_BAD_ARGUMENT. */
function channelsOf({ channels, from }: SearchParams, [first, ...more]: readonly HostTensor[]): [Uint8Array[], readonly HostTensor[]] {
  checkCounts({ channels });
  if (!Number.isSafeInteger(from) || from < 0) throw bad(`weights from ${from} on`);
  return channels === 0 ? [[], first ? [first, ...more] : []] : [[part(first, 'f64', channels)], more];
}

interface SearchPlaces {
  readonly weights: Argument;
  readonly cuts: Argument;
  readonly values: Argument;
  readonly channels: Argument;
}

function searchLaunch(
  { dtype, count, size, blocks }: BlockRun,
  { from, channels }: SearchParams,
  at: SearchPlaces,
  scales: Argument,
): Launch {
  const meets = [at.channels, int(channels), int(channels > 0 ? from % channels : 0)];
  return threads('bnb_scale_search', TEAM * blocks, [at.weights, int(dtype), int(count), int(size), ...meets, at.cuts, at.values, scales]);
}

interface BlockRun {
  readonly data: Uint8Array;
  readonly dtype: number;
  readonly count: number;
  readonly size: number;
  readonly blocks: number;
  readonly divide: 0 | 1;
  /** Scales are searched: weights may lie beyond them. */
  readonly searched: boolean;
}

function absmaxLaunch({ dtype, count, size, blocks, divide }: BlockRun, weights: Argument, absmax: Argument): Launch {
  return threads('bnb_absmax', blocks, [weights, int(dtype), int(count), int(size), int(divide), absmax]);
}

function blocksOf(
  home: RoutineHome,
  weights: HostTensor | undefined,
  { size, shortBlock, from }: BlockParams & { readonly from?: number },
): BlockRun {
  const [count = 0, ...more] = weights?.shape ?? [];
  if (more.length > 0) throw badWeights(weights, '[n]');
  const { data, dtype } = weightsOf(home, weights, count, '[n]');
  if (!Number.isInteger(size) || size < 2 || size % 2 !== 0 || size > MOST)
    throw bad(`blocks of ${size} weights`, 'Blocks have an even number of weights.');
  return {
    data,
    dtype,
    count,
    size,
    blocks: Math.ceil(count / size),
    divide: shortBlock === 'divide' ? 1 : 0,
    searched: from !== undefined,
  };
}

function nestedOf(
  { first, blocks, offset }: NonNullable<BlockParams['nested']>,
  tables: readonly (HostTensor | undefined)[],
  count: number,
) {
  const whole = [first, blocks].every((value) => Number.isInteger(value) && value >= 0 && value <= MOST);
  if (!whole || first + count > blocks) throw bad(`${count} blocks from ${first} of ${blocks}`);
  const [magnitudes, map, bounds] = tables;
  return {
    tables: [part(magnitudes, 'f32', Math.ceil(blocks / 256)), part(map, 'f32', 256), part(bounds, 'f32', 255)],
    list: (here: number): readonly Argument[] => [int(here), int(first), int(blocks), float(offset ?? Number.NaN)],
  };
}
