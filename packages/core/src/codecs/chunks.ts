// Unpacking a long range piece by piece: the codes of one piece stay in the processor's cache, and memory does not grow with the weight.

import type { Packing } from '../pack/index.ts';

/** 64 Ki codes: small enough for a second-level cache, large enough for the calls around it not to count. */
const CHUNK = 65536;

export interface PackedCodes {
  readonly packing: Packing;
  readonly packed: Uint8Array;
  /** The grouped matrix. */
  readonly rows: number;
  readonly columns: number;
}

/** Calls `visit` with the codes of consecutive pieces of [from, to): codes[0 .. count) are flat elements at, at + 1, ... The array is reused. */
export function eachChunk(
  source: PackedCodes,
  from: number,
  to: number,
  visit: (codes: Uint8Array, at: number, count: number) => void,
): void {
  const codes = new Uint8Array(Math.min(CHUNK, to - from));
  for (let at = from; at < to; at += CHUNK) {
    const end = Math.min(to, at + CHUNK);
    source.packing.unpackRange(source.packed, source.rows, source.columns, at, end, codes);
    visit(codes, at, end - at);
  }
}
