// Routines of quantizers on the GPU, by the names that their packages give them: packages/hqq/src/routines.ts, packages/bnb/src/coder.ts and int8-coder.ts say what goes in and
// comes out. The bytes are the same. Others than these (least squares, HIGGS) run where they run without this backend.

import { DTYPE_BYTES, type DType, type HostTensor, isLanePacking, LowbitError, packing, type Routine } from '@lowbit/core';
import type { Argument, BufferHandle, CudaBinding, DeviceHandle, Launch, StoredFloat } from './binding.ts';
import { deviceError } from './errors.ts';
import { float, int } from './launches.ts';

export interface RoutineHome {
  readonly binding: CudaBinding;
  readonly device: DeviceHandle;
  /** Throws ERR_DISPOSED when the backend is gone. */
  check(): void;
}

const FLOATS: Readonly<Record<StoredFloat, readonly [kind: number, bytes: number]>> = { f32: [0, 4], f16: [1, 2], bf16: [2, 2] };
const THREADS = 128;
/** Kernels count weights in 32 bits, by twos: the step past the last must fit, too. */
const MOST = 2 ** 31 - 2;

type Run = (home: RoutineHome, inputs: readonly HostTensor[], params: never) => Promise<readonly HostTensor[]>;

export function gpuRoutines(home: RoutineHome): ReadonlyMap<string, Routine> {
  const routine = (run: Run): Routine => {
    return async (inputs, params) => {
      home.check();
      try {
        const outputs = await run(home, inputs, params as never);
        home.check(); // a backend that was disposed meanwhile gives nothing any more
        return outputs;
      } catch (error) {
        throw deviceError(error);
      }
    };
  };
  return new Map(Object.entries(ROUTINES).map(([name, run]) => [name, routine(run)]));
}

/** Threads in blocks of so many. */
function threads(kernel: string, count: number, list: readonly Argument[], block = THREADS): Launch {
  return { kernel, grid: [Math.ceil(count / block), 1, 1], block, arguments: list };
}

/**
 * Runs launches over one buffer that holds everything: inputs in their order, then outputs of so many bytes (or with what is in them before), of which the first
 * `wanted` come back.
 */
async function onDevice(
  { binding, device }: RoutineHome,
  inputs: readonly Uint8Array[],
  outputs: readonly (number | Uint8Array)[],
  launches: (at: (index: number) => Argument) => readonly Launch[],
  wanted = outputs.length,
): Promise<readonly Uint8Array<ArrayBuffer>[]> {
  const places: number[] = [];
  let bytes = 0;
  const all = [...inputs, ...outputs];
  for (const one of all) {
    places.push(bytes);
    bytes += Math.ceil((typeof one === 'number' ? one : one.byteLength) / 16) * 16;
  }
  let buffer: BufferHandle | undefined;
  try {
    buffer = binding.createBuffer(device, bytes, false);
    for (const [i, one] of all.entries()) {
      if (typeof one !== 'number') await binding.uploadBuffer(buffer, places[i]!, plain(one));
    }
    for (const launch of launches((index) => ({ buffer: 0, offset: places[index]! }))) binding.launch(device, launch, [buffer]);
    const results = outputs.slice(0, wanted).map((one) => new Uint8Array(typeof one === 'number' ? one : one.byteLength));
    for (const [i, result] of results.entries()) await binding.readBuffer(buffer, places[inputs.length + i]!, result);
    return results;
  } finally {
    if (buffer !== undefined) binding.freeBuffer(buffer);
  }
}

interface HqqParams {
  readonly levels: number;
  readonly roundZero: boolean;
  readonly smallRange: boolean;
  readonly norm: number;
  readonly betas: readonly number[];
  readonly lastBeta: number;
  readonly tile: PackedTile;
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

interface RowParams {
  readonly few: boolean;
  readonly narrow: boolean;
}

interface BlockParams {
  readonly size: number;
  readonly shortBlock: 'divide' | 'multiply';
  readonly nested?: { readonly first: number; readonly blocks: number; readonly offset: number | null };
}

const ROUTINES: Readonly<Record<string, Run>> = {
  'hqq.min-max': async (home, [weights], { levels, roundZero, smallRange }: HqqParams) => {
    const { data, dtype, groups, size } = tileOf(weights);
    checkLevels(levels);
    const list = (at: (index: number) => Argument): readonly Argument[] => [
      ...[at(0), int(dtype), int(groups), int(size), int(levels), int(roundZero ? 1 : 0), int(smallRange ? 1 : 0)],
      ...[at(1), at(2)],
    ];
    const found = await onDevice(home, [data], [4 * groups, 4 * groups], (at) => [threads('hqq_min_max', groups, list(at))]);
    return found.map((values) => tensorOf('f32', [groups], values));
  },
  'hqq.proximal-steps': async (home, [weights, inverse, zero, settled], { levels, norm, betas, lastBeta }: HqqParams) => {
    const { data, dtype, groups, size } = tileOf(weights);
    checkLevels(levels);
    const steps = betas.length;
    const settings = Float64Array.of(norm, lastBeta, ...betas);
    if (!settings.every(Number.isFinite) || 3 * steps * groups > MOST) throw bad(`steps of p ${norm} and beta ${betas.join(', ')}`);
    const grid = [bytesOf(settings), part(inverse, 'f32', groups), part(zero, 'f32', groups)];
    const outputs = [4 * steps * groups, part(settled, 'u8', groups), 24 * steps * groups, 24 * steps];
    const [zeros, newSettled, , sums] = await onDevice(home, [data, ...grid], outputs, (at) => [
      threads('hqq_proximal', groups, [
        ...[at(0), int(dtype), int(groups), int(size), int(levels), int(steps)],
        ...[1, 2, 3, 4, 5, 6].map(at),
      ]),
      threads('sum_columns', 3 * steps, [at(6), int(groups), int(3 * steps), at(7)], 32),
    ]);
    return [tensorOf('f32', [steps, groups], zeros!), tensorOf('u8', [groups], newSettled!), tensorOf('f64', [steps, 3], sums!)];
  },
  'hqq.finish': async (home, [weights, ...grid], { levels, tile: given }: HqqParams) => {
    const { data, dtype, groups, size } = tileOf(weights);
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
          threads('hqq_finish', groups, head),
          threads('hqq_pack', words, [codes, ...order, at(first - 1), int(words), wordsAt], 256),
          { kernel: 'hqq_error_sums', grid: [1, 1, 1], block: 32, arguments: [errors, int(groups), sumsAt] },
        ];
      },
      2,
    );
    return [tensorOf('u8', [packed!.byteLength], packed!), tensorOf('f64', [3], sums!)];
  },
  'bnb.absmax': async (home, [weights], params: BlockParams) => {
    const run = blocksOf(weights, params);
    const [absmax] = await onDevice(home, [run.data], [4 * run.blocks], (at) => [absmaxLaunch(run, at(0), at(1))]);
    return [tensorOf('f32', [run.blocks], absmax!)];
  },
  'bnb.int8': async (home, [weights], { few, narrow }: RowParams) => {
    const { data, dtype, groups: rows, size } = tileOf(weights);
    const [magnitudes, codes, errors] = await onDevice(home, [data], [4 * rows, rows * size, 24 * rows], (at) => {
      const list = [at(0), int(dtype), int(rows), int(size), int(few ? 1 : 0), int(narrow ? 1 : 0), at(1), at(2), at(3)];
      return [{ kernel: 'bnb_int8', grid: [rows, 1, 1], block: 32, arguments: list }]; // a warp a row
    });
    return [tensorOf('f32', [rows], magnitudes!), tensorOf('u8', [rows, size], codes!), tensorOf('f64', [3, rows], errors!)];
  },
  'bnb.four-bit': async (home, [weights, cuts, codes, values, ...tables], params: BlockParams) => {
    const run = blocksOf(weights, params);
    const { count, blocks } = run;
    const cells = [part(cuts, 'f32', 15), part(codes, 'u8', 16), part(values, 'f32', 16)];
    if (cells[1]!.some((code) => code > 15)) throw bad('codes of more than 4 bits');
    const nested = params.nested && nestedOf(params.nested, tables, blocks);
    const inputs = [run.data, ...cells, ...(nested?.tables ?? [])];
    const first = inputs.length;
    const outputs = [Math.ceil(count / 2), 4 * blocks, 24 * blocks, ...(nested ? [blocks, 4 * blocks] : [])];
    const found = await onDevice(home, inputs, outputs, (at) => {
      const [packed, absmax, errors, nestedCodes, scale] = outputs.map((_, i) => at(first + i));
      const head = [at(0), int(run.dtype), int(count), int(run.size), int(run.divide)];
      const four = threads('bnb_four_bit', blocks, [...head, absmax!, scale ?? absmax!, at(1), at(2), at(3), packed!, errors!]);
      const inner = nested && [absmax!, ...nested.list(blocks), at(4), at(5), at(6), nestedCodes!, scale!];
      return [absmaxLaunch(run, at(0), absmax!), ...(inner ? [threads('bnb_nested', blocks, inner)] : []), four];
    });
    const [packed, absmax, errors, nestedCodes, scale] = found;
    const plainOutputs = [
      tensorOf('u8', [packed!.byteLength], packed!),
      tensorOf('f32', [blocks], absmax!),
      tensorOf('f64', [3, blocks], errors!),
    ];
    return nested ? [...plainOutputs, tensorOf('u8', [blocks], nestedCodes!), tensorOf('f32', [blocks], scale!)] : plainOutputs;
  },
};

interface BlockRun {
  readonly data: Uint8Array;
  readonly dtype: number;
  readonly count: number;
  readonly size: number;
  readonly blocks: number;
  readonly divide: 0 | 1;
}

function absmaxLaunch({ dtype, count, size, blocks, divide }: BlockRun, weights: Argument, absmax: Argument): Launch {
  return threads('bnb_absmax', blocks, [weights, int(dtype), int(count), int(size), int(divide), absmax]);
}

function blocksOf(weights: HostTensor | undefined, { size, shortBlock }: BlockParams): BlockRun {
  const [count = 0, ...more] = weights?.shape ?? [];
  if (more.length > 0) throw badWeights(weights, '[n]');
  const { data, dtype } = weightsOf(weights, count, '[n]');
  if (!Number.isInteger(size) || size < 2 || size % 2 !== 0 || size > MOST)
    throw bad(`blocks of ${size} weights`, 'Blocks have an even number of weights.');
  return { data, dtype, count, size, blocks: Math.ceil(count / size), divide: shortBlock === 'divide' ? 1 : 0 };
}

function nestedOf({ first, blocks, offset }: NonNullable<BlockParams['nested']>, tables: readonly HostTensor[], count: number) {
  const whole = [first, blocks].every((value) => Number.isInteger(value) && value >= 0 && value <= MOST);
  if (!whole || first + count > blocks) throw bad(`${count} blocks from ${first} of ${blocks}`);
  const [magnitudes, map, bounds] = tables;
  return {
    tables: [part(magnitudes, 'f32', Math.ceil(blocks / 256)), part(map, 'f32', 256), part(bounds, 'f32', 255)],
    list: (here: number): readonly Argument[] => [int(here), int(first), int(blocks), float(offset ?? Number.NaN)],
  };
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

/** Weights [groups, size]. Throws ERR_BAD_ARGUMENT. */
function tileOf(weights: HostTensor | undefined) {
  const [groups = 0, size = 0, ...more] = weights?.shape ?? [];
  if (more.length > 0 || !(size >= 1)) throw badWeights(weights, '[groups, size]');
  return { ...weightsOf(weights, groups * size, '[groups, size]'), groups, size };
}

function weightsOf(weights: HostTensor | undefined, count: number, shape: string): { readonly data: Uint8Array; readonly dtype: number } {
  const [dtype, width] = FLOATS[weights?.dtype as StoredFloat] ?? [0, 0];
  const fits = Number.isInteger(count) && count >= 1 && count <= MOST && weights?.data.byteLength === count * width;
  if (!fits) throw badWeights(weights, shape);
  return { data: weights!.data, dtype };
}

/** Bytes of so many numbers. Throws ERR_BAD_ARGUMENT. */
function part(tensor: HostTensor | undefined, dtype: 'f32' | 'u8', count: number): Uint8Array {
  if (tensor?.dtype === dtype && tensor.data.byteLength === count * (dtype === 'f32' ? 4 : 1)) return tensor.data;
  throw bad(`${tensor?.dtype} [${tensor?.shape.join(', ')}] where ${count} of ${dtype} belong`);
}

function checkLevels(levels: number): void {
  if (!Number.isInteger(levels) || levels < 2 || levels > 256) throw bad(`${levels} levels`);
}

function tensorOf(dtype: DType, shape: readonly number[], data: Uint8Array<ArrayBuffer>): HostTensor {
  return { dtype, shape, data };
}

function bytesOf(values: Float64Array | Int32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** Of any view, plain bytes. */
function plain(data: Uint8Array): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

function bad(what: string, hint?: string): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', `kernels-cuda: ${what}`, { hint });
}

function badWeights(weights: HostTensor | undefined, shape: string): LowbitError {
  return bad(`weights cannot be ${weights?.dtype} [${weights?.shape.join(', ')}]`, `Pass ${shape} in f32, f16 or bf16.`);
}
