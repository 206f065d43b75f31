// Rows of codes as bit streams, each row by itself: code i of a row is in bits [i n, (i + 1) n) of the row's bytes, the least significant bit first, and
// the row is filled up with zero bits to a whole byte. lowbit's own portable order for HIGGS codes that FLUTE's tiles cannot hold; for n = 8 it is one
// code a byte, row by row.

import { LowbitError } from '../spec/errors.ts';
import { checkCodeCount, checkCodeWidth, checkPackedBytes, checkRange, checkTile, type TilePacking } from './packing.ts';

function rowBits(bits: number): TilePacking {
  const name = `row_bits${bits}`;
  const mask = 2 ** bits - 1;
  const rowBytes = (columns: number): number => Math.ceil((columns * bits) / 8);

  function packRow(codes: Uint8Array, from: number, columns: number, into: Uint8Array, at: number): number {
    let union = 0;
    let held = 0;
    let count = 0;
    let to = at;
    for (let i = from; i < from + columns; i++) {
      const code = codes[i]!;
      union |= code;
      held |= code << count;
      for (count += bits; count >= 8; count -= 8) {
        into[to++] = held;
        held >>>= 8;
      }
    }
    if (count > 0) into[to] = held;
    return union;
  }

  function packRows(codes: Uint8Array, rows: number, columns: number): Uint8Array {
    checkCodeCount(name, codes, rows * columns);
    const width = rowBytes(columns);
    const packed = new Uint8Array(rows * width);
    let union = 0;
    for (let row = 0; row < rows; row++) union |= packRow(codes, row * columns, columns, packed, row * width);
    checkCodeWidth(name, union, bits);
    return packed;
  }

  /** Columns [from, to) of one row. */
  function unpackRow(packed: Uint8Array, from: number, to: number, into: Uint8Array, at: number): void {
    let byte = Math.floor((from * bits) / 8);
    const skip = (from * bits) % 8;
    let held = from < to ? packed[byte++]! >>> skip : 0;
    let count = 8 - skip;
    for (let i = from, k = at; i < to; i++, k++) {
      if (count < bits) {
        held |= packed[byte++]! << count;
        count += 8;
      }
      into[k] = held & mask;
      held >>>= bits;
      count -= bits;
    }
  }

  const packing: TilePacking = {
    name,
    dtype: 'u8',
    bits,
    tileRows: 1,
    shape: (rows, columns) => [rows, rowBytes(columns)],
    pack: packRows,
    packTile(codes, tile, rows, columns) {
      checkTile(packing, tile, rows);
      return [{ at: tile * rowBytes(columns), data: packRows(codes, 1, columns) }];
    },
    tileRuns(tile, rows, columns) {
      checkTile(packing, tile, rows);
      return [{ at: tile * rowBytes(columns), count: rowBytes(columns) }];
    },
    unpackTile(packed, tile, rows, columns) {
      checkTile(packing, tile, rows);
      checkPackedBytes(name, packed, rowBytes(columns));
      const codes = new Uint8Array(columns);
      unpackRow(packed, 0, columns, codes, 0);
      return codes;
    },
    unpack(packed, rows, columns) {
      const codes = new Uint8Array(rows * columns);
      packing.unpackRange(packed, rows, columns, 0, codes.length, codes);
      return codes;
    },
    unpackRange(packed, rows, columns, from, to, into) {
      const width = rowBytes(columns);
      checkRange(name, packed, rows * width, rows * columns, [from, to], into);
      for (let start = from; start < to; ) {
        const row = Math.floor(start / columns);
        const end = Math.min(to, (row + 1) * columns);
        unpackRow(packed.subarray(row * width, (row + 1) * width), start - row * columns, end - row * columns, into, start - from);
        start = end;
      }
    },
  };
  return packing;
}

/** HIGGS has codes of 2, 3, 4 (scalars, and pairs at 2 bits), 6 and 8 bits (pairs at 3 and 4 bits). */
export const ROW_BITS: readonly TilePacking[] = [2, 3, 4, 6, 8].map(rowBits);

/** The portable packing of codes of so many bits. Throws ERR_UNSUPPORTED_FORMAT for a width that has none. */
export function rowBitsName(bits: number): string {
  const found = ROW_BITS.find((packing) => packing.bits === bits);
  if (found) return found.name;
  throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `no packing of rows holds codes of ${bits} bits`, {
    hint: `Widths: ${ROW_BITS.map((packing) => packing.bits).join(', ')}.`,
    details: { bits },
  });
}
