// Kernels as launches, for a single product and for a program's steps alike. Shapes of grids are what the comments of native/kernels ask for.

import type { Argument, BufferHandle, Extent, Launch } from './binding.ts';
import type { WeightLayout } from './layout.ts';

/** In the order of `Rows` in native/kernels/step.cuh. */
export const DOMAIN = { tokens: 0, outputs: 1, routed: 2, encoder: 3, once: 4 } as const;

/** How many rows: a number, or those of a domain at each step. */
export type RowCount = number | { readonly domain: number };

export const int = (value: number): Argument => ({ int: value });
export const float = (value: number): Argument => ({ float: value });

/** ceil(rows * times / per). */
export function blocks(rows: RowCount, { times = 1, per = 1 }: { readonly times?: number; readonly per?: number } = {}): Extent {
  return typeof rows === 'number' ? Math.ceil((rows * times) / per) : { rows: rows.domain, times, per };
}

export function rowArgument(rows: RowCount): Argument {
  return typeof rows === 'number' ? int(rows) : { rows: rows.domain };
}

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

/** Where kernels put what they need between them. `perRow` numbers of 4 bytes a row, or so many in all. */
export interface Scratch {
  perRow(width: number): Argument;
  once(width: number): Argument;
}

/** What a product reads beside the weight, as launches that make it; shared where several products read the same x. */
export interface Preparation {
  /** x rotated into the basis of the weight. */
  rotated(layout: WeightLayout): Argument;
  planes(x: Argument, layout: WeightLayout): { readonly planes: Argument; readonly numbers: Argument };
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
export function preparation(rows: RowCount, x: Argument, scratch: Scratch, launches: Launch[]): Preparation {
  return {
    rotated(layout) {
      if (layout.run === undefined) return x;
      const { run, features, inp: columns } = layout;
      const out = scratch.perRow(columns);
      launches.push(hadamardLaunch(rows, { features, columns, run, kept: columns }, x, out));
      return out;
    },
    planes(from, layout) {
      const { inp } = layout;
      const planes = scratch.perRow((inp / 32) * 24);
      const numbers = scratch.perRow((inp / 32) * 2);
      const make = (natural: boolean): Launch => planesLaunch(rows, from, layout, { planes, numbers }, { natural });
      if (planeOrder(layout) === 'natural') launches.push(make(true));
      else launches.push(...byRows(rows, { few: make(false), many: make(true) }));
      return { planes, numbers };
    },
  };
}

/** The launch for few rows or that for more: chosen now, or at each step. */
function byRows(rows: RowCount, { few, many }: { readonly few: Launch; readonly many: Launch }): readonly Launch[] {
  if (typeof rows === 'number') return [rows <= FEW_ROWS ? few : many];
  return [
    { ...few, where: { rows: rows.domain, least: 1, most: FEW_ROWS } },
    { ...many, where: { rows: rows.domain, least: FEW_ROWS + 1 } },
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
    const many: Launch = { kernel: 'mma_int8', grid, block: 128, arguments: [...list, rowArgument(rows)] };
    return [...made.launches, ...byRows(rows, { few, many })];
  }
  const from = prepare.rotated(layout);
  const { quick } = layout;
  if (!quick) return floatLaunches(layout, weight, { rows, x: from, out });
  const { planes, numbers } = prepare.planes(from, layout);
  const many: Launch = {
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
  return byRows(rows, { few, many });
}

/** Products in floating point. */
function floatLaunches(
  layout: WeightLayout,
  weight: Argument,
  { rows, x, out }: { readonly rows: RowCount; readonly x: Argument; readonly out: Argument },
): readonly Launch[] {
  const launch = (kernel: string, perBlock: number, atOnce: number): Launch => ({
    kernel,
    grid: [Math.ceil(layout.out / perBlock), blocks(rows, { per: atOnce }), 1],
    block: 128,
    arguments: [weight, x, out, rowArgument(rows)],
  });
  if (!layout.wide) return [launch('product', 4, 8)];
  const codebook = { ...launch('gemv_codebook', 16, 1), arguments: [weight, x, out] };
  return byRows(rows, { few: layout.codebook ? codebook : launch('wide_product', 4, 2), many: launch('mma_wide', 16, 32) });
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
