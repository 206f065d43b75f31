// Kernels as launches, for a single product and for a program's steps alike. Shapes of grids are what the comments of native/kernels ask for.

import { blocks, DOMAIN, float, int, type RowCount, rowArgument, type Scratch } from './arguments.ts';
import type { Argument, BufferHandle, Launch } from './binding.ts';
import { gemmInt8Launch, gemmLaunches, hasGemm, MANY_ROWS, type PlaneCount, pairsLaunch, pairWidths } from './gemm.ts';
import type { WeightLayout } from './layout.ts';

export { blocks, DOMAIN, float, int, type RowCount, rowArgument, type Scratch };

/** A kernel with a thread for each element of [rows, width]. */
export function elementwise(kernel: string, rows: RowCount, width: number, list: readonly Argument[]): Launch {
  return { kernel, grid: [Math.ceil(width / 256), blocks(rows), 1], block: 256, arguments: list };
}

/** Rows of x filled up and rotated: [rows, columns], or the first `kept` of each. */
export function hadamardLaunch(
  rows: RowCount,
  shape: { readonly features: number; readonly columns: number; readonly run: number; readonly kept: number },
  x: Argument,
  out: Argument,
): Launch {
  const { features, columns, run, kept } = shape;
  return {
    kernel: 'hadamard',
    grid: [columns / run, blocks(rows), 1],
    block: Math.max(32, Math.min(256, run / 2)),
    shared: 4 * run,
    arguments: [x, int(features), int(run), float(1 / Math.sqrt(run)), out, int(kept)],
  };
}

/** What a product reads beside the weight, as launches that make it; shared where several products read the same x. */
export interface Preparation {
  /** Planes of many rows. */
  readonly count: PlaneCount;
  /** x rotated into the basis of the weight. */
  rotated(layout: WeightLayout): Argument;
  /** Of quick weights, for any rows. */
  planes(x: Argument, layout: WeightLayout): { readonly planes: Argument; readonly numbers: Argument };
  /** Of others, for many rows alone. */
  pairs(x: Argument, layout: WeightLayout): { readonly planes: Argument; readonly numbers: Argument };
}

/** Numbers of 4 bytes that planes take for a row: those of few rows and those of many are in one place. */
export function planeWidths(inp: number, count: PlaneCount): { readonly planes: number; readonly numbers: number } {
  return { planes: Math.max((inp / 32) * 24, pairWidths(inp, count).planes), numbers: (inp / 32) * 2 };
}

/** Rows up to which a weight is multiplied without tensor cores. */
export const FEW_ROWS = 2;

/** Whether there is a product for few rows. */
export function hasGemv({ quick }: WeightLayout): boolean {
  return quick !== undefined;
}

/** How a product's planes lie: those of codes in halves of bytes for few rows are in an order of their own. */
export function planeOrder({ quick, bits }: WeightLayout): 'natural' | 'halves for few rows' {
  return quick === 'affine' && bits === 4 ? 'halves for few rows' : 'natural';
}

export function planesLaunch(
  rows: RowCount,
  x: Argument,
  { inp }: WeightLayout,
  { planes, numbers }: { readonly planes: Argument; readonly numbers: Argument },
  { natural }: { readonly natural: boolean },
): Launch {
  const list = [x, int(inp), int(natural ? 1 : 0), planes, numbers];
  return { kernel: 'activation_planes', grid: [Math.ceil(inp / 128), blocks(rows), 1], block: 128, arguments: list };
}

/** A preparation that makes everything anew, its launches into `launches`. */
export function preparation(rows: RowCount, x: Argument, count: PlaneCount, scratch: Scratch, launches: Launch[]): Preparation {
  return {
    count,
    rotated(layout) {
      if (layout.run === undefined) return x;
      const { run, features, inp: columns } = layout;
      const out = scratch.perRow(columns);
      launches.push(hadamardLaunch(rows, { features, columns, run, kept: columns }, x, out));
      return out;
    },
    planes(from, layout) {
      const { inp } = layout;
      const widths = planeWidths(inp, count);
      const planes = scratch.perRow(widths.planes);
      const numbers = scratch.perRow(widths.numbers);
      const make = (natural: boolean): Launch => planesLaunch(rows, from, layout, { planes, numbers }, { natural });
      const many = [pairsLaunch(rows, from, inp, count, { planes, numbers })];
      launches.push(...byRows(rows, { few: make(planeOrder(layout) === 'natural'), some: make(true), many }));
      return { planes, numbers };
    },
    pairs(from, { inp }) {
      const widths = pairWidths(inp, count);
      const made = { planes: scratch.perRow(widths.planes), numbers: scratch.perRow(widths.numbers) };
      const many = [pairsLaunch(rows, from, inp, count, made)];
      launches.push(...byRows(rows, { many }));
      return made;
    },
  };
}

/** What runs for few rows, for more, and for many (none: as for more): chosen now, or at each step. */
function byRows(
  rows: RowCount,
  { few, some, many }: { readonly few?: Launch; readonly some?: Launch; readonly many?: readonly Launch[] },
): readonly Launch[] {
  if (typeof rows === 'number') {
    if (many && rows >= MANY_ROWS) return many;
    const one = rows <= FEW_ROWS ? few : some;
    return one ? [one] : [];
  }
  const from = (least: number, most?: number) => ({ rows: rows.domain, least, ...(most === undefined ? {} : { most }) });
  return [
    ...(few ? [{ ...few, where: from(1, FEW_ROWS) }] : []),
    ...(some ? [{ ...some, where: from(FEW_ROWS + 1, many && MANY_ROWS - 1) }] : []),
    ...(many ?? []).map((launch) => ({ ...launch, where: launch.where ?? from(MANY_ROWS) })),
  ];
}

/** out [rows, out] = x W^T + bias. */
export function productLaunches(
  layout: WeightLayout,
  weight: Argument,
  { rows, x, out }: { readonly rows: RowCount; readonly x: Argument; readonly out: Argument },
  prepare: Preparation,
  scratch: Scratch,
): readonly Launch[] {
  if (layout.kind === 'int8') {
    const made = int8Launches(layout, { rows, x }, scratch, { shared: true });
    const list = [weight, made.codes, made.scale, x, made.columns, out];
    const few: Launch = { kernel: 'int8_product', grid: [Math.ceil(layout.out / 4), blocks(rows), 1], block: 128, arguments: list };
    const grid = [Math.ceil(layout.out / 16), blocks(rows, { per: 32 }), 1] as const;
    const some: Launch = { kernel: 'mma_int8', grid, block: 128, arguments: [...list, rowArgument(rows)] };
    return [...made.launches, ...byRows(rows, { few, some, many: [gemmInt8Launch(layout, rows, some.arguments)] })];
  }
  const from = prepare.rotated(layout);
  const { quick } = layout;
  if (!quick) {
    const many = hasGemm(layout)
      ? gemmLaunches(layout, weight, { rows, out }, prepare.pairs(from, layout), prepare.count, scratch)
      : undefined;
    return floatLaunches(layout, weight, { rows, x: from, out }, many);
  }
  const { planes, numbers } = prepare.planes(from, layout);
  const some: Launch = {
    kernel: quick === 'table' ? 'mma_table4' : 'mma_affine',
    grid: [Math.ceil(layout.out / 16), blocks(rows, { per: 32 }), 1],
    block: 128,
    arguments: [weight, planes, numbers, out, rowArgument(rows)],
  };
  const few: Launch = {
    kernel: quick === 'table' ? 'gemv_table4' : layout.bits === 4 ? 'gemv_affine4' : 'gemv_affine',
    grid: [Math.ceil(layout.out / 8), blocks(rows), 1],
    block: 128,
    arguments: [weight, planes, numbers, out],
  };
  return byRows(rows, { few, some, many: gemmLaunches(layout, weight, { rows, out }, { planes, numbers }, prepare.count, scratch) });
}

/** Products in floating point. */
function floatLaunches(
  layout: WeightLayout,
  weight: Argument,
  { rows, x, out }: { readonly rows: RowCount; readonly x: Argument; readonly out: Argument },
  many: readonly Launch[] | undefined,
): readonly Launch[] {
  const launch = (kernel: string, perBlock: number, atOnce: number): Launch => ({
    kernel,
    grid: [Math.ceil(layout.out / perBlock), blocks(rows, { per: atOnce }), 1],
    block: 128,
    arguments: [weight, x, out, rowArgument(rows)],
  });
  if (!layout.wide) return [launch('product', 4, 8)];
  const codebook = { ...launch('gemv_codebook', 16, 1), arguments: [weight, x, out] };
  const few = layout.codebook ? codebook : launch('wide_product', 4, 2);
  return byRows(rows, { few, some: launch('mma_wide', 16, 32), ...(many ? { many } : {}) });
}

/** Rows of x in 8 bits. `shared`: the columns of outliers are those of all rows together, else of each row. */
export function int8Launches(
  { inp, rowWords, threshold }: WeightLayout,
  { rows, x }: { readonly rows: RowCount; readonly x: Argument },
  scratch: Scratch,
  { shared }: { readonly shared: boolean },
): { readonly launches: readonly Launch[]; readonly codes: Argument; readonly scale: Argument; readonly columns: Argument } {
  const launches: Launch[] = [];
  let flags: Argument = null;
  let columns: Argument = null;
  if (shared && threshold > 0) {
    flags = scratch.once(inp);
    launches.push({ kernel: 'clear', grid: [Math.ceil(inp / 256), 1, 1], block: 256, arguments: [flags, int(inp)] });
    launches.push(elementwise('int8_outliers', rows, inp, [x, int(inp), float(threshold), flags]));
    columns = scratch.once(1 + inp);
    launches.push({ kernel: 'int8_columns', grid: [1, 1, 1], block: 1024, arguments: [flags, int(inp), columns] });
  }
  const codes = scratch.perRow(rowWords);
  const scale = scratch.perRow(1);
  const list = [x, int(inp), float(threshold), flags, int(rowWords), codes, scale];
  launches.push({ kernel: 'int8_rows', grid: [blocks(rows), 1, 1], block: 128, arguments: list });
  return { launches, codes, scale, columns };
}

/** Buffers that launches name by their place in a list. */
export class BufferList {
  readonly handles: BufferHandle[] = [];

  add(handle: BufferHandle, offset = 0): Argument {
    let at = this.handles.indexOf(handle);
    if (at < 0) at = this.handles.push(handle) - 1;
    return { buffer: at, offset };
  }
}
