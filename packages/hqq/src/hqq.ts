// The quantizer itself: settings in, a plain object out.

import { type Affine, LowbitError, type PartWriter, type Quantizer, roundTo, type WeightError, writeFloat32 } from '@lowbit/core';
import { assignCodes, type GroupBlock } from './grid.ts';
import { type HqqOptions, hqqFormat, settings, weightQuantParams } from './options.ts';
import { type Grid, gather, solveGrid, TileStore } from './solve.ts';
import { packTile, type Tile, type Tiling, tiling } from './tiles.ts';

/**
 * Half-Quadratic Quantization: a calibration-free, group-wise affine grid with a floating-point zero, w = (q - zero) * scale.
 *
 * @throws ERR_BAD_ARGUMENT for unusable options. The quantizer itself throws ERR_UNSUPPORTED_FORMAT for a shape that groups or packing do not
 * divide, and ERR_DTYPE_OVERFLOW when a scale or zero does not fit the storage dtype.
 *
 * @example
 * const q = await quantize(weight, hqq({ bits: 4, groupSize: 64, axis: 1 }));
 */
export function hqq(options: HqqOptions = {}): Quantizer {
  const s = settings(options);
  return {
    spec: 1,
    method: 'hqq',
    config: weightQuantParams(s),
    identity: JSON.stringify(['hqq', ALGORITHM_VERSION, s]),
    format: (shape, metaDtype) => hqqFormat(s, shape, metaDtype),
    async quantize(weight, format, out, context) {
      const affine = format as Affine;
      const t = tiling(affine, weight.shape);
      const store = new TileStore(weight, t, context.budget);
      const grid = await solveGrid(store, t, affine.levels, s, context);
      const total = { squaredError: 0, squaredWeight: 0, maxAbs: 0 };
      for (const [index, tile] of t.tiles.entries()) {
        context.signal?.throwIfAborted();
        const block = await store.load(index);
        await finishTile(block, grid, t, tile, affine, weight.name, out, total);
        context.onWeights?.(tile.groups * t.size);
      }
      return total;
    },
  };
}

/** Goes up when the same settings would give other bytes. */
const ALGORITHM_VERSION = 1;

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** Codes of a tile from the solved grid; packs and writes them with scales and zeros, and adds up the error of what was stored. */
async function finishTile(
  block: GroupBlock,
  grid: Grid,
  t: Tiling,
  tile: Tile,
  format: Affine,
  name: string,
  out: PartWriter,
  total: Mutable<WeightError>,
): Promise<void> {
  const inverse = gather(grid.inverse, tile);
  const zero = gather(grid.zero, tile);
  const codes = new Uint8Array(block.groups * block.size);
  assignCodes(block, format.levels, inverse, zero, codes);
  const dtype = format.scale as 'f32' | 'f16' | 'bf16';
  const scale = inverse.map((s) => 1 / s);
  storable(scale, dtype, name, 'scale');
  storable(zero, dtype, name, 'zero');
  addError(block, codes, scale, zero, dtype, total);

  const words = packTile(codes, t, tile);
  if (t.axis === 1) await out.write('codes', tile.from * t.columns, words);
  else {
    const rowBytes = words.byteLength / t.wordRows;
    for (let r = 0; r < t.wordRows; r++) {
      await out.write('codes', r * t.columns + tile.from, words.subarray(r * rowBytes, (r + 1) * rowBytes));
    }
  }
  let at = 0;
  for (const run of tile.runs) {
    const count = run.to - run.from;
    if (count === 0) continue;
    await out.write('scale', run.from, writeFloat32(dtype, scale.subarray(at, at + count)));
    await out.write('zero', run.from, writeFloat32(dtype, zero.subarray(at, at + count)));
    at += count;
  }
}

/** Throws if rounding to the storage dtype makes a value infinite: a silent infinity would make the layer useless. */
function storable(values: Float32Array, dtype: 'f32' | 'f16' | 'bf16', name: string, what: string): void {
  const limit = dtype === 'f16' ? 65520 : dtype === 'bf16' ? 3.3961775e38 : Number.POSITIVE_INFINITY;
  for (const value of values) {
    if (Math.abs(value) < limit) continue;
    throw new LowbitError('ERR_DTYPE_OVERFLOW', `${name}: a ${what} of ${value} does not fit ${dtype}`, {
      hint: 'Its group has a tiny range far from zero. Store scales as bf16 or f32, or keep this layer with a rule.',
      details: { tensor: name, value, dtype },
    });
  }
}

function addError(
  block: GroupBlock,
  codes: Uint8Array,
  scale: Float32Array,
  zero: Float32Array,
  dtype: 'f32' | 'f16' | 'bf16',
  total: Mutable<WeightError>,
): void {
  const { weights, groups, size } = block;
  for (let g = 0, at = 0; g < groups; g++, at += size) {
    const storedScale = roundTo(dtype, scale[g]!);
    const storedZero = roundTo(dtype, zero[g]!);
    for (let i = at; i < at + size; i++) {
      const w = weights[i]!;
      const error = w - Math.fround(Math.fround(codes[i]! - storedZero) * storedScale);
      total.squaredError += error * error;
      total.squaredWeight += w * w;
      const magnitude = Math.abs(error);
      if (magnitude > total.maxAbs) total.maxAbs = magnitude;
    }
  }
}
