// Products of many rows (prompts) as launches: kernels of native/kernels/gemm.cuh and gemm-int8.cuh.

import { blocks, int, type RowCount, rowArgument, type Scratch } from './arguments.ts';
import type { Argument, Launch } from './binding.ts';
import type { WeightLayout } from './layout.ts';

/** Rows from which on a weight is multiplied in tiles. */
export const MANY_ROWS = 65;

/** As native/kernels/gemm.cuh: rows of a tile, inputs of one, threads and bytes of shared memory of a block. */
const SIDE = 128;
const DEPTH = 64;
const THREADS = 256;
const SHARED = 99 << 10;
/** Inputs that a thread brings at once. */
const RUN = 32;
/** Blocks that keep a large GPU busy: where rows and columns make fewer, the inputs are shared out among several. */
const ENOUGH_BLOCKS = 132;
/** Tiles of inputs that a block has at least. */
const FEWEST_TILES = 4;

/** Planes of whole numbers that activations are cut into: two hold 23 bits of the largest of each 64, one 12. */
export type PlaneCount = 1 | 2;

/** Activations as the tiles want them, see native/kernels/gemm-planes.cuh. */
export interface Pairs {
  readonly planes: Argument;
  readonly numbers: Argument;
}

/** Numbers of 4 bytes that these take for a row. */
export function pairWidths(inp: number, count: PlaneCount): { readonly planes: number; readonly numbers: number } {
  const tiles = Math.ceil(inp / DEPTH);
  return { planes: (tiles * DEPTH * count) / 2, numbers: 2 * tiles };
}

export function pairsLaunch(rows: RowCount, x: Argument, inp: number, count: PlaneCount, { planes, numbers }: Pairs): Launch {
  const grid = [Math.ceil(Math.ceil(inp / DEPTH) / 4), blocks(rows), 1] as const;
  return { kernel: 'gemm_planes', grid, block: 128, arguments: [x, int(inp), int(count), planes, numbers] };
}

/** Whether rows of x are taken as pairs of planes; else many rows are multiplied as few are. */
export function hasGemm({ kind, wide }: WeightLayout): boolean {
  return kind !== 'int8' && wide;
}

/** Which kernel unpacks a weight: in whole numbers where it can, in one half for each number where that holds it, else in two. */
function kernelOf({ kind, quick, group, inp, stored, codebook, round }: WeightLayout): string {
  if (quick && group % DEPTH === 0) return quick === 'table' ? 'gemm_table' : 'gemm_affine';
  const short = kind === 'dense' ? stored !== 'f32' : codebook && round !== 'f32' && group % RUN === 0;
  return short && inp % RUN === 0 ? 'gemm_half' : 'gemm_float';
}

/** From `least` to `most` rows the inputs are shared out among so many blocks. */
interface Share {
  readonly least: number;
  readonly most?: number;
  readonly parts: number;
}

/** By the weight and the rows alone: the same on every GPU, as how sums are added follows from it. */
export function sharesOf({ out, inp }: Pick<WeightLayout, 'out' | 'inp'>): readonly Share[] {
  const columns = Math.ceil(out / SIDE);
  const most = Math.max(1, Math.floor(Math.ceil(inp / DEPTH) / FEWEST_TILES));
  const shares: { least: number; most?: number; parts: number }[] = [];
  for (let [least, rows] = [MANY_ROWS, SIDE]; ; [least, rows] = [rows + 1, 2 * rows]) {
    const parts = Math.max(1, Math.min(most, Math.floor(ENOUGH_BLOCKS / ((columns * rows) / SIDE))));
    const last = shares.at(-1);
    if (last?.parts === parts) last.most = rows;
    else shares.push({ least, most: rows, parts });
    if (parts > 1) continue;
    delete shares.at(-1)!.most;
    return shares;
  }
}

/** out [rows, out] = x W^T + bias, where there are many rows. */
export function gemmLaunches(
  layout: WeightLayout,
  weight: Argument,
  { rows, out }: { readonly rows: RowCount; readonly out: Argument },
  { planes, numbers }: Pairs,
  count: PlaneCount,
  scratch: Scratch,
): readonly Launch[] {
  const shares = sharesOf(layout).filter(({ least, most = Infinity }) => typeof rows !== 'number' || (rows >= least && rows <= most));
  const width = Math.max(0, ...shares.map(({ parts, most = 0 }) => (parts > 1 ? parts * most * layout.out : 0)));
  const partial = width > 0 ? scratch.once(width) : null;
  return shares.flatMap(({ least, most, parts }) => {
    const where = typeof rows === 'number' ? {} : { where: { rows: rows.domain, least, ...(most === undefined ? {} : { most }) } };
    const product: Launch = {
      kernel: kernelOf(layout),
      grid: [Math.ceil(layout.out / SIDE), blocks(rows, { per: SIDE }), parts],
      block: THREADS,
      shared: SHARED,
      arguments: [weight, planes, numbers, parts > 1 ? partial : out, rowArgument(rows), int(count)],
      ...where,
    };
    if (parts === 1) return [product];
    const list = [weight, partial, int(parts), rowArgument(rows), out];
    return [
      product,
      { kernel: 'gemm_join', grid: [Math.ceil(layout.out / 256), blocks(rows), 1] as const, block: 256, arguments: list, ...where },
    ];
  });
}

/** As `mma_int8`, with the same arguments. */
export function gemmInt8Launch({ out }: WeightLayout, rows: RowCount, list: readonly Argument[]): Launch {
  const grid = [Math.ceil(out / SIDE), blocks(rows, { per: SIDE }), 1] as const;
  return { kernel: 'gemm_int8', grid, block: THREADS, shared: SHARED, arguments: list };
}
