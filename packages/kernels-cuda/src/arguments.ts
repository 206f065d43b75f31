// What launches are made of: rows, grids, arguments, and room.

import type { Argument, Extent } from './binding.ts';

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

/** Where kernels put what they need between them. `perRow` numbers of 4 bytes a row, or so many in all. */
export interface Scratch {
  perRow(width: number): Argument;
  once(width: number): Argument;
}
