// The last routine of a tile: codes from the solved grid, packed, and the error of what is stored.

import { type GroupBlock, ROUND } from './grid.ts';
import { type PackedTile, packTile } from './tiles.ts';

const fround = Math.fround;
const round = ROUND; // a local: this is a hot loop, and some module loaders make every use of an import a property access

let room = new Uint8Array(0);

/** Codes of one call: they are packed before the next. */
function codesOf(count: number): Uint8Array {
  if (room.length < count) room = new Uint8Array(count);
  return room.subarray(0, count);
}

/** Numbers of every group as they are stored, f32 [groups]. */
interface StoredGrid {
  readonly scale: Float32Array;
  readonly zero: Float32Array;
}

/**
 * Codes of a tile as packed words, and sums over its weights (group by group, then of the groups): squared errors of the stored numbers, squared weights,
 * and the largest error.
 *
 * With a solved grid codes are clamp(round(w * inverse + zero), 0, levels - 1), multiply and add rounded to float32 apart. Without, they are the nearest
 * to what is stored: clamp(round(w / scale + zero), 0, levels - 1) in float64.
 */
export function finishBlock(
  block: GroupBlock,
  levels: number,
  stored: StoredGrid,
  solved: { readonly inverse: Float32Array; readonly zero: Float32Array } | undefined,
  tile: PackedTile,
): { readonly words: Uint8Array<ArrayBuffer>; readonly error: Float64Array<ArrayBuffer> } {
  const { weights, groups, size } = block;
  const top = levels - 1;
  const codes = codesOf(groups * size);
  const numbers = new Float64Array(levels); // (q - zero) * scale of every code of the group at hand
  let squaredError = 0;
  let squaredWeight = 0;
  let maxAbs = 0;
  for (let g = 0, at = 0; g < groups; g++, at += size) {
    const scale = stored.scale[g]!;
    const zero = stored.zero[g]!;
    const tabulate = levels <= size;
    if (tabulate) for (let q = 0; q <= top; q++) numbers[q] = fround(fround(q - zero) * scale);
    const inverse = solved ? solved.inverse[g]! : 1 / scale;
    const z = solved ? solved.zero[g]! : zero;
    let squares = 0; // of the errors and weights of the group
    let squaredWeights = 0;
    for (let i = at; i < at + size; i++) {
      const w = weights[i]!;
      const x = solved ? fround(fround(w * inverse) + z) : w * inverse + z;
      let rounded = x + round - round;
      if (rounded < 0) rounded = 0;
      else if (rounded > top) rounded = top;
      const q = rounded | 0;
      codes[i] = q;
      const error = w - (tabulate ? numbers[q]! : fround(fround(q - zero) * scale));
      squares += error * error;
      squaredWeights += w * w;
      const magnitude = Math.abs(error);
      if (magnitude > maxAbs) maxAbs = magnitude;
    }
    squaredError += squares;
    squaredWeight += squaredWeights;
  }
  return { words: packTile(codes, tile) as Uint8Array<ArrayBuffer>, error: Float64Array.of(squaredError, squaredWeight, maxAbs) };
}
