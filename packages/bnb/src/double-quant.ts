// Double quantization: the magnitudes of NF4 and FP4 blocks, less their mean, as 8-bit indices into the dynamic map, 256 to a magnitude of their own.
//
// Everything but the codes follows from the mean of all magnitudes and, for each 256 of them, the largest and the smallest. So a first pass over the
// weight keeps those alone, and a second one codes each block as it comes.

import { LEAST_ABSMAX } from './blocks.ts';
import type { Chunks } from './chunks.ts';
import type { BlockCoder } from './coder.ts';
import { dynamicMap } from './dynamic-map.ts';
import { mapBounds, nearestEntry } from './nearest.ts';

const fround = Math.fround;

/** Magnitudes that share one: what every reader expects. */
export const NESTED_BLOCK = 256;

/** The first pass: mean and ranges of the magnitudes of all blocks of `size` weights. */
export async function nestedScales(chunks: Chunks, coder: BlockCoder, count: number, size: number): Promise<NestedScales> {
  const blocks = Math.ceil(count / size);
  const lowest = new Float32Array(Math.ceil(blocks / NESTED_BLOCK)).fill(Number.POSITIVE_INFINITY);
  const highest = new Float32Array(lowest.length);
  let sum = 0;
  await chunks.each(coder.absmax, (absmax, { from }) => {
    for (let block = from / size, i = 0; i < absmax.length; ) {
      const group = Math.floor(block / NESTED_BLOCK);
      const end = Math.min(absmax.length, i + (group + 1) * NESTED_BLOCK - block);
      let [low, high] = [lowest[group]!, highest[group]!];
      for (block += end - i; i < end; i++) {
        const largest = absmax[i]!;
        sum += largest;
        low = Math.min(low, largest);
        high = Math.max(high, largest);
      }
      lowest[group] = low;
      highest[group] = high;
    }
  });
  const mean = fround(sum / blocks);
  return new NestedScales(blocks, Number.isNaN(mean) ? Number.NaN : mean, lowest, highest); // the constant, whose sign in memory is known
}

/** Magnitudes as 8-bit codes. */
export class NestedScales {
  /** The mean that is taken off before and added after. Summed in float64, in order. */
  readonly offset: number;
  /** Largest distance from the mean, one per 256 blocks. */
  readonly absmax: Float32Array;
  readonly map: Float32Array = dynamicMap();
  /** Between the entries of the map. */
  readonly bounds: Float32Array = mapBounds(this.map);
  /** Of the weight. */
  readonly blocks: number;

  constructor(blocks: number, offset: number, lowest: Float32Array, highest: Float32Array) {
    this.blocks = blocks;
    this.offset = offset;
    // A distance that is NaN (there is one if the mean is not finite) does not count, as in bitsandbytes' C++.
    const distance = (x: number): number => Math.abs(fround(x - offset)) || 0;
    this.absmax = highest.map((high, group) => Math.max(distance(high), distance(lowest[group]!)));
  }

  /** Codes of the magnitudes of blocks from `first` on, and the scales that a reader will make of them: NaN if one of all magnitudes is not finite. */
  code(first: number, absmax: Float32Array, codes: Uint8Array, scales: Float32Array): void {
    if (!Number.isFinite(this.offset)) {
      codes.fill(0);
      scales.fill(Number.NaN);
      return;
    }
    for (let i = 0; i < absmax.length; i++) {
      const group = Math.floor((first + i) / NESTED_BLOCK);
      const short = (group + 1) * NESTED_BLOCK > this.blocks; // the last 256 divide if they are fewer
      const largest = this.absmax[group]!;
      const least = Math.max(largest, LEAST_ABSMAX);
      const distance = fround(absmax[i]! - this.offset);
      const code = nearestEntry(this.bounds, short ? fround(distance / least) : fround(distance * fround(1 / least)));
      codes[i] = code;
      scales[i] = fround(fround(this.map[code]! * largest) + this.offset);
    }
  }
}
