// Packings of the flat sequence of codes, which do not care about the matrix' rows: one code a byte, and bitsandbytes' nibbles.

import { checkCodeCount, checkCodeWidth, checkRange, type Packing } from './packing.ts';

/** One code a byte, in order; packed shape [R * C]. */
export const FLAT_U8: Packing = {
  name: 'u8',
  dtype: 'u8',
  bits: 8,
  shape: (rows, columns) => [rows * columns],
  pack(codes, rows, columns) {
    checkCodeCount('u8', codes, rows * columns);
    return codes.slice();
  },
  unpack(packed, rows, columns) {
    const codes = new Uint8Array(rows * columns);
    FLAT_U8.unpackRange(packed, rows, columns, 0, codes.length, codes);
    return codes;
  },
  unpackRange(packed, rows, columns, from, to, into) {
    checkRange('u8', packed, rows * columns, rows * columns, [from, to], into);
    into.set(packed.subarray(from, to));
  },
};

/**
 * bitsandbytes' 4-bit weights: two codes a byte, the first of them in the high nibble; packed shape [ceil(R * C / 2), 1]. The low nibble left over
 * by an odd count is written as zero and ignored when read. bitsandbytes writes its code of 0.0 there (NF4 7, FP4 0): for the same bytes pack that
 * code after the others, as a matrix of 1 x (count + 1).
 */
export const BNB_NIBBLE: Packing = {
  name: 'bnb_nibble',
  dtype: 'u8',
  bits: 4,
  shape: (rows, columns) => [Math.ceil((rows * columns) / 2), 1],
  pack(codes, rows, columns) {
    const count = rows * columns;
    checkCodeCount('bnb_nibble', codes, count);
    const packed = new Uint8Array(Math.ceil(count / 2));
    let union = 0;
    for (let i = 0; i < count; i++) {
      const code = codes[i]!;
      union |= code;
      packed[i >>> 1]! |= (i & 1) === 0 ? code << 4 : code;
    }
    checkCodeWidth('bnb_nibble', union, 4);
    return packed;
  },
  unpack(packed, rows, columns) {
    const codes = new Uint8Array(rows * columns);
    BNB_NIBBLE.unpackRange(packed, rows, columns, 0, codes.length, codes);
    return codes;
  },
  unpackRange(packed, rows, columns, from, to, into) {
    const count = rows * columns;
    checkRange('bnb_nibble', packed, Math.ceil(count / 2), count, [from, to], into);
    if (from === to) return;
    const bytes = packed.subarray(Math.floor(from / 2), Math.ceil(to / 2));
    const first = from % 2;
    const length = to - from;
    // Whole bytes in the middle; at most one half byte at either end.
    if (first === 1) into[0] = bytes[0]! & 15;
    let at = first;
    for (let i = first; at + 1 < length; i++, at += 2) {
      const byte = bytes[i]!;
      into[at] = byte >>> 4;
      into[at + 1] = byte & 15;
    }
    if (at < length) into[at] = bytes[bytes.length - 1]! >>> 4;
  },
};
