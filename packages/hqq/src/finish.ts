// The last step of a tile: scales and zeros rounded to what they are stored as, codes from the solved grid, and all of it written.

import {
  type DType,
  elements,
  type HostTensor,
  hostTensor,
  LowbitError,
  type PartWriter,
  roundTo,
  type WeightError,
  writeFloat32,
} from '@lowbit/core';
import { type Layer, ofTile } from './layer.ts';
import type { Grid, StorageDtype } from './solver.ts';
import { packedTile, type Tile } from './tiles.ts';

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
      hint: `Its group has a ${what === 'scale' ? 'range too wide' : 'tiny range far from zero'}. Store scales as bf16 or f32, or keep this layer with a rule.`,
      details: { tensor: name, value, dtype },
    });
  }
  return { values: dtype === 'f32' ? values : values.map((value) => roundTo(dtype, value)), part: { name: what, dtype } };
}

/** Codes of the tile; packs and writes them and the plain parts. Gives the error of what was stored. The grid is that of the tile. */
export async function finishTile(
  layer: Layer,
  weights: HostTensor,
  tile: Tile,
  grid: Grid,
  stored: readonly [scale: Stored, zero: Stored],
  out: PartWriter,
): Promise<WeightError> {
  const { tiling: t, levels } = layer;
  const [scale, zero] = stored;
  const numbers = grid.codes === 'solved' ? [scale.values, zero.values, grid.inverse, grid.zero] : [scale.values, zero.values];
  const inputs = [weights, ...numbers.map((values) => hostTensor('f32', [tile.groups], values))];
  const [packed, sums] = await layer.call('hqq.finish', tile, inputs, { levels, tile: { ...packedTile(t, tile) } }, tile.groups * t.size);

  const words = packed!.data;
  // A tile of all columns is one range on either axis; written row by row, one grid for a whole weight would be a call per byte.
  if (t.axis === 1 || tile.to - tile.from === t.columns) await out.write('codes', tile.from * t.columns, words);
  else {
    const rowBytes = words.byteLength / t.wordRows;
    for (let r = 0; r < t.wordRows; r++) {
      await out.write('codes', r * t.columns + tile.from, words.subarray(r * rowBytes, (r + 1) * rowBytes));
    }
  }
  for (const { values, part } of stored) {
    if (!part) continue;
    let at = 0;
    for (const run of tile.runs) {
      const count = run.to - run.from;
      if (count > 0) await out.write(part.name, run.from, writeFloat32(part.dtype, values.subarray(at, at + count)));
      at += count;
    }
  }
  const [squaredError, squaredWeight, maxAbs] = elements({ dtype: 'f64', data: sums!.data });
  return { squaredError: squaredError!, squaredWeight: squaredWeight!, maxAbs: maxAbs! };
}

/** The grid of a tile, from that of all groups in tile order. */
export function gridOfTile(grid: Grid, tile: Tile): Grid {
  const zero = ofTile(grid.zero, tile);
  return grid.codes === 'stored'
    ? { ...grid, scale: ofTile(grid.scale, tile), zero }
    : { ...grid, inverse: ofTile(grid.inverse, tile), zero };
}
