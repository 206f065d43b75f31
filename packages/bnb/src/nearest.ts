// The nearest entry of a sorted map of 256 numbers.

/** Bounds between the entries of a map: float32 midpoints, [255]. */
export function mapBounds(map: Float32Array): Float32Array {
  return Float32Array.from({ length: map.length - 1 }, (_, i) => Math.fround(Math.fround(map[i]! + map[i + 1]!) / 2));
}

/** How many of 255 ascending bounds are below `value`: the index of the nearest entry, of the lower one on a tie. */
export function nearestEntry(bounds: Float32Array, value: number): number {
  let low = 0;
  for (let step = 128; step > 0; step >>= 1) if (value > bounds[low + step - 1]!) low += step;
  return low;
}
