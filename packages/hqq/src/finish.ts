// The last step of a tile: codes from the solved grid, packed and written with scales and zeros, and the error of what was stored.

import { type DType, LowbitError, type PartWriter, roundTo, type WeightError, writeFloat32 } from '@lowbit/core';
import { assignCodes, type GroupBlock, nearestCodes } from './grid.ts';
import type { Grid, StorageDtype } from './solver.ts';
import { packTile, type Tile, type Tiling } from './tiles.ts';

const fround = Math.fround;

/** Scales or zeros of a tile as a reader will find them, and the plain part they go to; no part where they were quantized themselves. */
export interface Stored {
  readonly values: Float32Array;
  readonly part?: { readonly name: 'scale' | 'zero'; readonly dtype: DType };
}

/** Scales of a grid. */
export function scalesOf(grid: Grid): Float32Array {
  return grid.codes === 'stored' ? grid.scale : grid.inverse.map((s) => 1 / s);
}

/** Numbers rounded to the dtype they are stored in. Throws ERR_DTYPE_OVERFLOW if one becomes infinite: the layer would be useless. */
export function storePlain(values: Float32Array, dtype: StorageDtype, name: string, what: 'scale' | 'zero'): Stored {
  const limit = dtype === 'f16' ? 65520 : dtype === 'bf16' ? 3.3961775e38 : Number.POSITIVE_INFINITY;
  for (const value of values) {
    if (Math.abs(value) < limit) continue;
    throw new LowbitError('ERR_DTYPE_OVERFLOW', `${name}: a ${what} of ${value} does not fit ${dtype}`, {
      hint: 'Its group has a tiny range far from zero. Store scales as bf16 or f32, or keep this layer with a rule.',
      details: { tensor: name, value, dtype },
    });
  }
  return { values: dtype === 'f32' ? values : values.map((value) => roundTo(dtype, value)), part: { name: what, dtype } };
}

export type ErrorSums = { -readonly [K in keyof WeightError]: WeightError[K] };

/** Codes of the tile; packs and writes them and the plain parts, and adds up the error. */
export async function finishTile(
  block: GroupBlock,
  tile: Tile,
  grid: Grid,
  scale: Stored,
  zero: Stored,
  to: { readonly tiling: Tiling; readonly levels: number; readonly out: PartWriter; readonly total: ErrorSums },
): Promise<void> {
  const { tiling: t, levels, out, total } = to;
  const codes = new Uint8Array(block.groups * block.size);
  if (grid.codes === 'stored') nearestCodes(block, levels, scale.values, zero.values, codes);
  else assignCodes(block, levels, grid.inverse, grid.zero, codes);
  addError(block, codes, scale.values, zero.values, total);

  const words = packTile(codes, t, tile);
  // A tile of all columns is one range on either axis; written row by row, one grid for a whole weight would be a call per byte.
  if (t.axis === 1 || tile.to - tile.from === t.columns) await out.write('codes', tile.from * t.columns, words);
  else {
    const rowBytes = words.byteLength / t.wordRows;
    for (let r = 0; r < t.wordRows; r++) {
      await out.write('codes', r * t.columns + tile.from, words.subarray(r * rowBytes, (r + 1) * rowBytes));
    }
  }
  for (const { values, part } of [scale, zero]) {
    if (!part) continue;
    let at = 0;
    for (const run of tile.runs) {
      const count = run.to - run.from;
      if (count > 0) await out.write(part.name, run.from, writeFloat32(part.dtype, values.subarray(at, at + count)));
      at += count;
    }
  }
}

function addError(block: GroupBlock, codes: Uint8Array, scale: Float32Array, zero: Float32Array, total: ErrorSums): void {
  const { weights, groups, size } = block;
  let [squaredError, squaredWeight, maxAbs] = [total.squaredError, total.squaredWeight, total.maxAbs];
  for (let g = 0, at = 0; g < groups; g++, at += size) {
    const s = scale[g]!;
    const z = zero[g]!;
    for (let i = at; i < at + size; i++) {
      const w = weights[i]!;
      const error = w - fround(fround(codes[i]! - z) * s);
      squaredError += error * error;
      squaredWeight += w * w;
      const magnitude = Math.abs(error);
      if (magnitude > maxAbs) maxAbs = magnitude;
    }
  }
  total.squaredError = squaredError;
  total.squaredWeight = squaredWeight;
  total.maxAbs = maxAbs;
}
