// The tables of the `higgs` layout: the grid in the 16-bit dtype of the scales, as pairs that the kernel looks up by a field of two neighbouring levels.
//
//   p = 2   tables2[hi][lo] = grid[hi << b | lo]            p = 1   tables2[hi][lo] = (grid[hi], grid[lo])
//
// tables2 is labelled f16 whatever the dtype. transformers casts it by value when it loads a bf16 model, and saves the result.

import type { HostTensor } from '@lowbit/core';
import { LowbitError, quote, readFloat32, writeFloat32 } from '@lowbit/core';
import { fail, type HiggsDType } from './higgs-format.ts';
import { higgsGrid } from './higgs-grids.ts';

export interface HiggsTable {
  readonly p: 1 | 2;
  /** The part `table`, [n, p] f32. */
  readonly table: HostTensor;
  readonly note?: string;
}

/** The part `table` of the grid of transformers, rounded to the dtype. */
export function higgsTable(bits: number, p: 1 | 2, dtype: HiggsDType): HostTensor {
  const n = 2 ** (bits * p);
  return tablePart(numbers(dtype, writeFloat32(dtype, higgsGrid(p, n))), p);
}

/** Bytes of `tables2`, [2^b, 2^b, 2], of a table [n, p] f32. */
export function pairTable(table: Float32Array, bits: number, p: 1 | 2, dtype: HiggsDType): Uint8Array {
  if (p === 2) return writeFloat32(dtype, table);
  const levels = 2 ** bits;
  return writeFloat32(
    dtype,
    Float32Array.from({ length: 2 * levels * levels }, (_, i) => {
      const pair = i >> 1;
      return table[i & 1 ? pair % levels : Math.floor(pair / levels)]!;
    }),
  );
}

/** Bytes of `tables`, [2^b]. */
export function levelTable(table: Float32Array, bits: number, p: 1 | 2, dtype: HiggsDType): Uint8Array {
  return writeFloat32(dtype, p === 1 ? table : Float32Array.from({ length: 2 ** bits }, (_, i) => i));
}

/** For layers whose table a reload has damaged. */
const MENDED_TABLE =
  'its tables2 was damaged by transformers, which casts it by value when it loads a bfloat16 model; the grid that it was made of is used';
/** For layers with a table that is no grid of transformers. */
const OWN_TABLE = 'its table is not the grid of transformers; the stored numbers are used';

/**
 * What a stored `tables2` means. Where it is the grid of transformers that decides on p; `stated` is what config.json says, for other tables.
 * Throws ERR_NON_FINITE, and ERR_TENSOR_MISMATCH for a table of pairs where `stated` is 1.
 */
export function readPairTable(name: string, data: Uint8Array, bits: number, dtype: HiggsDType, stated: number | undefined): HiggsTable {
  for (const p of [1, 2] as const) {
    const table = higgsTable(bits, p, dtype);
    const expected = pairTable(numbers('f32', table.data), bits, p, dtype);
    if (sameBytes(data, expected)) return { p, table };
    if (dtype === 'bf16' && sameBytes(data, writeFloat32('bf16', numbers('f16', expected)))) return { p, table, note: MENDED_TABLE };
  }
  const values = finite(name, numbers(dtype, data));
  const levels = 2 ** bits;
  const scalars = values.filter((_, i) => i % 2 === 1).subarray(0, levels);
  const isProduct = sameBytes(pairTable(scalars, bits, 1, dtype), data);
  if (stated === 1 && !isProduct) fail(name, 'is no table of a scalar grid, which is what config.json says (p 1)');
  const p = stated === 2 || !isProduct ? 2 : 1;
  return { p, table: tablePart(p === 1 ? scalars : values, p), note: OWN_TABLE };
}

/** What the `grid` of the portable form means. Throws ERR_NON_FINITE. */
export function readGrid(name: string, data: Uint8Array, bits: number, p: 1 | 2, dtype: HiggsDType): HiggsTable {
  const table = tablePart(finite(name, numbers(dtype, data)), p);
  return sameBytes(table.data, higgsTable(bits, p, dtype).data) ? { p, table } : { p, table, note: OWN_TABLE };
}

function tablePart(values: Float32Array, p: number): HostTensor {
  return { dtype: 'f32', shape: [values.length / p, p], data: writeFloat32('f32', values) };
}

function numbers(dtype: 'f16' | 'bf16' | 'f32', data: Uint8Array): Float32Array {
  const values = new Float32Array(data.byteLength / (dtype === 'f32' ? 4 : 2));
  readFloat32(dtype, data, values);
  return values;
}

function finite(name: string, values: Float32Array): Float32Array {
  const at = values.findIndex((value) => !Number.isFinite(value));
  if (at < 0) return values;
  throw new LowbitError('ERR_NON_FINITE', `${quote(name)}: element ${at} is ${values[at]}`, {
    hint: 'The table is damaged. Fetch the checkpoint again.',
    details: { tensor: name, index: at },
  });
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.byteLength === b.byteLength && a.every((byte, i) => byte === b[i]);
}
