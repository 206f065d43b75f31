// Sets of byte ranges: which parts of a file are written.

/** Disjoint, ascending, never touching ranges [from, to). */
export type Ranges = [from: number, to: number][];

/** Adds [from, to) in place, joining what it touches. */
export function addRange(ranges: Ranges, from: number, to: number): void {
  if (from >= to) return;
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (ranges[middle]![1] < from) low = middle + 1;
    else high = middle;
  }
  let end = low;
  for (; end < ranges.length && ranges[end]![0] <= to; end++) {
    from = Math.min(from, ranges[end]![0]);
    to = Math.max(to, ranges[end]![1]);
  }
  ranges.splice(low, end - low, [from, to]);
}

/** First byte of [from, to) that is in none of the ranges; undefined if all are. */
export function firstGap(ranges: Ranges, from: number, to: number): number | undefined {
  let at = from;
  for (const [start, end] of ranges) {
    if (at >= to || start > at) break;
    at = Math.max(at, end);
  }
  return at < to ? at : undefined;
}
