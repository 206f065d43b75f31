// The cuts between the values of the two 4-bit tables. A code is an index into its table; a table is not always in ascending order, so what is
// looked up first is a *cell*: the rank, from 0 for the lowest, of the table's value that is taken for a number.

import { FP4_TABLE, NF4_TABLE } from '@lowbit/core';

/** How numbers are sorted into the 16 cells of a table. */
export interface Cells {
  /** The 15 bounds between neighbouring cells, ascending: a number's cell is how many of them are below it. */
  readonly cuts: Float64Array;
  /** The code of each cell. */
  readonly codes: Uint8Array;
  /** The table's value of each cell. */
  readonly values: Float32Array;
}

/** Bounds are float32 midpoints of neighbouring values; a tie goes to the lower one. Equal values keep their order, so FP4's code 8 is above its 0. */
function midpoints(table: Float32Array): Cells {
  const codes = Uint8Array.from([...table.keys()].sort((a, b) => table[a]! - table[b]!));
  const values = Float32Array.from(codes, (code) => table[code]!);
  const cuts = Float64Array.from({ length: 15 }, (_, i) => Math.fround(values[i]! + values[i + 1]!) / 2);
  return { cuts, codes, values };
}

/** The float32 number just below a finite one. */
function below(value: number): number {
  const float = Float32Array.of(value);
  const bits = new Int32Array(float.buffer);
  if (value === 0) return -(2 ** -149);
  bits[0]! += value > 0 ? -1 : 1;
  return float[0]!;
}

/**
 * The thresholds of the CUDA kernel, which are truncated decimals: the sign is that of the number (none for -0), then the magnitude is compared, and a
 * tie goes to the smaller one. Below zero that means `at least` instead of `above`, hence bounds one float32 lower.
 */
function cudaFp4(): Cells {
  const thresholds = [0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333].map(Math.fround);
  const magnitudes = [0, 1, 6, 7, 4, 5, 2, 3];
  const codes = Uint8Array.from([...magnitudes.map((code) => code + 8).reverse(), ...magnitudes]);
  const values = Float32Array.from(codes, (code) => FP4_TABLE[code]!);
  return { cuts: Float64Array.from([...thresholds.map((t) => below(-t)).reverse(), below(0), ...thresholds]), codes, values };
}

/** NF4, as on every device. */
export const NF4_CELLS: Cells = midpoints(NF4_TABLE);
/** FP4 by midpoints, as bitsandbytes 0.50 does on the CPU. */
export const FP4_CELLS: Cells = midpoints(FP4_TABLE);
/** FP4 by the thresholds of bitsandbytes' CUDA kernels. */
export const FP4_CUDA_CELLS: Cells = cudaFp4();
