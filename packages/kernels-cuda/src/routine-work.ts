// What routines on the GPU share: tensors that are checked, and launches over memory that holds everything of a call.

import { DTYPE_BYTES, type DType, type HostTensor, LowbitError } from '@lowbit/core';
import type { Argument, CudaBinding, DeviceHandle, Launch, StoredFloat } from './binding.ts';
import type { HeldTile, HeldWeights } from './held.ts';
import { int } from './launches.ts';

export interface RoutineHome {
  readonly binding: CudaBinding;
  readonly device: DeviceHandle;
  readonly held: HeldWeights;
  /** Where the weights of the call are, if they stay for others. */
  readonly tile?: HeldTile;
  /** Throws ERR_DISPOSED when the backend is gone. */
  check(): void;
}

/** Of numbers that kernels read and write. */
export const STORED_BYTES: Readonly<Record<StoredFloat, number>> = { f32: 4, f16: 2, bf16: 2 };
const KINDS: Readonly<Record<StoredFloat, number>> = { f32: 0, f16: 1, bf16: 2 };
const THREADS = 128;
/** Kernels count weights in 32 bits, by twos: the step past the last must fit, too. */
export const MOST = 2 ** 31 - 2;

/** A routine: outputs of inputs and parameters. */
export type GpuRoutine = (home: RoutineHome, inputs: readonly HostTensor[], params: never) => Promise<readonly HostTensor[]>;

/** Threads in blocks of so many. */
export function threads(kernel: string, count: number, list: readonly Argument[], block = THREADS): Launch {
  return { kernel, grid: [Math.ceil(count / block), 1, 1], block, arguments: list };
}

/** Of numbers f64 [rows, columns]: sums of the first `summed` columns, in the order of rows, and the largest of each of the others. */
export function sumColumns(numbers: Argument, rows: number, columns: number, summed: number, sums: Argument): Launch {
  const list = [numbers, int(rows), int(columns), int(summed), sums];
  return { kernel: 'sum_columns', grid: [Math.ceil(columns / 32), 1, 1], block: 128, arguments: list };
}

/**
 * Runs launches over room that holds everything: inputs in their order, then outputs of so many bytes, of which the first `wanted` come back. Calls that are under
 * way at the same time overlap: while one is computed the next is brought. Where weights stay on the device, the first input is theirs, and has no room here.
 */
export async function onDevice(
  { binding, device, tile }: RoutineHome,
  inputs: readonly Uint8Array[],
  outputs: readonly (number | Uint8Array)[],
  launches: (at: (index: number) => Argument) => readonly Launch[],
  wanted = outputs.length,
): Promise<readonly Uint8Array<ArrayBuffer>[]> {
  const places: number[] = [];
  let bytes = 0;
  const all = [...(tile ? [0, ...inputs.slice(1)] : inputs), ...outputs];
  for (const one of all) {
    places.push(bytes);
    bytes += Math.ceil((typeof one === 'number' ? one : one.byteLength) / 16) * 16;
  }
  const results = outputs.slice(0, wanted).map((one) => new Uint8Array(typeof one === 'number' ? one : one.byteLength));
  await binding.runWork(device, {
    bytes,
    ...(tile ? { beside: tile.buffer } : {}),
    uploads: [
      ...(tile?.bytes ? [{ at: tile.at, from: plain(tile.bytes), beside: true as const }] : []),
      ...all.flatMap((one, i) => (typeof one === 'number' ? [] : [{ at: places[i]!, from: plain(one) }])),
    ],
    launches: launches((index) => (tile && index === 0 ? { buffer: 1, offset: tile.at } : { buffer: 0, offset: places[index]! })),
    downloads: results.map((to, i) => ({ at: places[inputs.length + i]!, to })),
  });
  return results;
}

/** Weights [groups, size]. Throws ERR_BAD_ARGUMENT. */
export function tileOf(home: RoutineHome, weights: HostTensor | undefined) {
  const [groups = 0, size = 0, ...more] = weights?.shape ?? [];
  if (more.length > 0 || !(size >= 1)) throw badWeights(weights, '[groups, size]');
  return { ...weightsOf(home, weights, groups * size, '[groups, size]'), groups, size };
}

/** So many weights, or those that are held for the call. Throws ERR_BAD_ARGUMENT. */
export function weightsOf(
  { tile }: Pick<RoutineHome, 'tile'>,
  weights: HostTensor | undefined,
  count: number,
  shape: string,
): { readonly data: Uint8Array; readonly dtype: number } {
  const [dtype, width] = [KINDS[weights?.dtype as StoredFloat], STORED_BYTES[weights?.dtype as StoredFloat]];
  const fits = Number.isInteger(count) && count >= 1 && count <= MOST && (tile || weights?.data.byteLength === count * width);
  if (!fits || dtype === undefined) throw badWeights(weights, shape);
  return { data: weights!.data, dtype };
}

/** Bytes of so many numbers. Throws ERR_BAD_ARGUMENT. */
export function part(tensor: HostTensor | undefined, dtype: 'f32' | 'f64' | 'u8', count: number): Uint8Array {
  if (tensor?.dtype === dtype && tensor.data.byteLength === count * DTYPE_BYTES[dtype]) return tensor.data;
  throw bad(`${tensor?.dtype} [${tensor?.shape.join(', ')}] where ${count} of ${dtype} belong`);
}

export function checkLevels(levels: number): void {
  if (!Number.isInteger(levels) || levels < 2 || levels > 256) throw bad(`${levels} levels`);
}

/** Kernels know f32, f16 and bf16 by number. Throws ERR_BAD_ARGUMENT. */
export function floatKind(dtype: unknown): number {
  const known = KINDS[dtype as StoredFloat];
  if (known === undefined) throw bad(`numbers of ${String(dtype)}`, 'Kernels write f32, f16 and bf16.');
  return known;
}

/** Throws ERR_BAD_ARGUMENT unless all are whole numbers from 0 to what kernels count to. */
export function checkCounts(counts: Readonly<Record<string, number>>): void {
  for (const [name, count] of Object.entries(counts)) {
    if (!Number.isInteger(count) || count < 0 || count > MOST) throw bad(`${name} of ${count}`);
  }
}

export function tensorOf(dtype: DType, shape: readonly number[], data: Uint8Array<ArrayBuffer>): HostTensor {
  return { dtype, shape, data };
}

export function bytesOf(values: Float64Array | Int32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** Of any view, plain bytes. */
function plain(data: Uint8Array): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

export function bad(what: string, hint?: string): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', `kernels-cuda: ${what}`, { hint });
}

export function badWeights(weights: HostTensor | undefined, shape: string): LowbitError {
  return bad(`weights cannot be ${weights?.dtype} [${weights?.shape.join(', ')}]`, `Pass ${shape} in f32, f16 or bf16.`);
}
