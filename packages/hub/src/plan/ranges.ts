// Ranges of bytes that a sink is given, and sets of them, such as the parts of a file that are written.

import type { TensorSpec } from '@lowbit/core';
import { byteLength, DTYPE_BYTES, LowbitError, quote } from '@lowbit/core';

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

/** The bytes [from, to) of a tensor that a write at element `at` fills. Throws ERR_BAD_ARGUMENT if it has no such whole elements. */
export function writtenBytes(name: string, spec: TensorSpec, at: number, bytes: number): readonly [from: number, to: number] {
  const width = DTYPE_BYTES[spec.dtype];
  const from = at * width;
  const to = from + bytes;
  if (Number.isSafeInteger(at) && at >= 0 && bytes % width === 0 && to <= byteLength(spec)) return [from, to];
  throw new LowbitError(
    'ERR_BAD_ARGUMENT',
    `${bytes} bytes from element ${at} do not fit ${quote(name)}: ${spec.dtype} [${spec.shape.join(', ')}]`,
    { details: { tensor: name, at, bytes } },
  );
}

/** Throws ERR_BAD_ARGUMENT unless a write of a late tensor brings all its bytes, no more than `spec` has. */
export function checkLateWrite(name: string, spec: TensorSpec, at: number, bytes: number): void {
  const most = byteLength(spec);
  if (at === 0 && bytes <= most) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `${bytes} bytes from element ${at} do not fit the late tensor ${quote(name)}`, {
    hint: `Write all its bytes at once, at most ${most}.`,
    details: { tensor: name, at, bytes, most },
  });
}

/** Throws ERR_BAD_ARGUMENT for a tensor that cannot be late. */
export function checkLateSpec(name: string, { dtype, shape }: TensorSpec): void {
  if (dtype === 'u8' && shape.length === 1) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `${quote(name)} cannot be a late tensor: it is ${dtype} [${shape.join(', ')}]`, {
    hint: 'Only one-dimensional u8 tensors can.',
    details: { tensor: name },
  });
}
