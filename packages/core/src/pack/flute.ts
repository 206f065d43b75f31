// FLUTE's packing (arXiv 2407.10960), which HIGGS checkpoints of transformers have. The code matrix is [N, K / p]; N output features, K inputs.
//
// Two vertically adjacent levels make a field of 2 b bits, the earlier input in the high half: for p = 2 a field is a code, for p = 1 two codes. The
// fields of m output features share an unsigned 32-bit word (little-endian, two i16 of the published tensor), so that a tile of m T output features and one
// field of the inputs is T words (b = 2, 4) or 3 T words (b = 3):
//
//   b = 4   m = 4    field c of word r at bit 8 c is feature 4 T tile + T c + t
//   b = 2   m = 8    field c of word r at bit 4 c is feature 8 T tile + T c + t          with t = r mod T, tile = r div T
//   b = 3   m = 16   three words of five fields (bits 0 .. 29); the sixteenth field is spread over their top two bits
//
// Nothing else decides the order: not the group, the dtype, or the number of multiprocessors that a file was tuned for.

import { LowbitError } from '../spec/errors.ts';
import { checkCodeCount, checkCodeWidth, checkPackedBytes, checkRange, checkTile, type PackedRun, type TilePacking } from './packing.ts';

/** FLUTE's `tile_P`. */
export type FluteTile = 32 | 64;

/** Name of FLUTE's packing for `bits` per weight, grids of `dim` weights, and tiles of `tile` rows of words. */
export function fluteName(bits: number, dim: number, tile: FluteTile): string {
  return `flute${bits}_p${dim}_t${tile}`;
}

/** Output features must be a multiple of it. */
export function fluteRows(bits: number, tile: FluteTile): number {
  return (bits === 4 ? 4 : bits === 2 ? 8 : 16) * tile;
}

/** Where one row of fields is: up to three rows of words, and the shifts of the field's pieces in each. */
interface FieldPlace {
  readonly words: readonly [row: number, shift: number, bits: number, at: number][];
}

function flute(bits: 2 | 3 | 4, dim: 1 | 2, tile: FluteTile): TilePacking {
  const name = fluteName(bits, dim, tile);
  const tileRows = fluteRows(bits, tile);
  const fieldBits = 2 * bits;

  /** Fields of output feature n, of N. */
  function placeOf(n: number, rows: number): FieldPlace {
    const nb = Math.floor(n / tileRows);
    const c = Math.floor((n % tileRows) / tile);
    const t = n % tile;
    const q = nb * tile + t;
    if (bits !== 3) return { words: [[q, fieldBits * c, fieldBits, 0]] };
    // The second plane of words comes after the first of all tiles, in runs of 32 rows.
    const z = rows / 16 + 2 * tile * nb + 64 * Math.floor(t / 32) + (t % 32);
    const at = [q, z, z + 32] as const;
    if (c < 15) return { words: [[at[c % 3]!, 6 * Math.floor(c / 3), 6, 0]] };
    return { words: at.map((row, i) => [row, 30, 2, 2 * i]) };
  }

  function checkShape(rows: number, columns: number): void {
    const inputs = columns * dim;
    if (rows % tileRows === 0 && inputs % 2 === 0) return;
    throw new LowbitError(
      'ERR_UNSUPPORTED_FORMAT',
      rows % tileRows === 0
        ? `${name} puts two inputs into a field, but there are ${inputs}`
        : `${name} needs out_features that are a multiple of ${tileRows}, got ${rows}`,
      {
        hint: `Pack as ${`row_bits${bits * dim}`}, which takes any shape but is read by lowbit alone${bits !== 3 && tile === 64 && rows % (tileRows / 2) === 0 ? ', or in tiles of 32' : ''}.`,
        details: { packing: name, rows, inputs, multiple: tileRows },
      },
    );
  }

  const words = (packed: Uint8Array): Uint32Array =>
    packed.byteOffset % 4 === 0
      ? new Uint32Array(packed.buffer, packed.byteOffset, packed.byteLength / 4)
      : new Uint32Array(packed.slice().buffer);

  /** Rows of codes into words of whole tiles. `wordRow` says where a row of words of the matrix is in `into`. */
  function packInto(
    codes: Uint8Array,
    first: number,
    count: number,
    size: readonly [number, number],
    wordRow: (row: number) => number,
    into: Uint32Array,
  ): void {
    const [rows, columns] = size;
    const fields = (columns * dim) / 2;
    let union = 0;
    for (let i = 0; i < count; i++) {
      for (const [row, shift, width, low] of placeOf(first + i, rows).words) {
        const mask = 2 ** width - 1;
        const to = wordRow(row) * fields;
        const from = i * columns;
        for (let j = 0; j < fields; j++) {
          const field = dim === 2 ? codes[from + j]! : (codes[from + 2 * j]! << bits) | codes[from + 2 * j + 1]!;
          union |= dim === 2 ? field : codes[from + 2 * j]! | codes[from + 2 * j + 1]!;
          into[to + j]! |= ((field >>> low) & mask) << shift;
        }
      }
    }
    checkCodeWidth(name, union, bits * dim);
  }

  /** Codes [from, to) of the matrix. `wordRow` says where a row of words of the matrix is in `packed`. */
  function unpackInto(
    packed: Uint8Array,
    [from, to]: readonly [number, number],
    [rows, columns]: readonly [number, number],
    wordRow: (row: number) => number,
    into: Uint8Array,
  ): void {
    const fields = (columns * dim) / 2;
    const levels = 2 ** bits - 1;
    const line = new Uint8Array(fields);
    for (let start = from; start < to; ) {
      const row = Math.floor(start / columns);
      const end = Math.min(to, (row + 1) * columns);
      const [a, b] = [start - row * columns, end - row * columns];
      const [j0, j1] = dim === 2 ? [a, b] : [a >> 1, (b + 1) >> 1];
      line.fill(0, j0, j1);
      for (const [place, shift, width, low] of placeOf(row, rows).words) {
        const at = wordRow(place);
        const run = words(packed.subarray(4 * (at * fields + j0), 4 * (at * fields + j1)));
        const mask = 2 ** width - 1;
        for (let j = j0; j < j1; j++) line[j]! |= ((run[j - j0]! >>> shift) & mask) << low;
      }
      const at = start - from;
      if (dim === 2) into.set(line.subarray(a, b), at);
      else for (let i = a; i < b; i++) into[at + i - a] = i & 1 ? line[i >> 1]! & levels : line[i >> 1]! >>> bits;
      start = end;
    }
  }

  /** Rows of words that hold a tile: a run of them, with 3 bits two. */
  function tilePlanes(index: number, rows: number): readonly (readonly [start: number, count: number])[] {
    const first = [index * tile, tile] as const;
    return bits === 3 ? [first, [rows / 16 + 2 * tile * index, 2 * tile]] : [first];
  }

  /** Where a row of words of the matrix is among those of its tile. */
  function rowInTile(index: number, rows: number): (row: number) => number {
    const [[start], second] = tilePlanes(index, rows) as [readonly [number, number], (readonly [number, number])?];
    return (row) => (row < start + tile ? row - start : tile + row - second![0]);
  }

  const packing: TilePacking = {
    name,
    dtype: 'i16',
    bits: bits * dim,
    tileRows,
    shape(rows, columns) {
      checkShape(rows, columns);
      return [(rows * bits) / 16, columns * dim];
    },
    pack(codes, rows, columns) {
      checkShape(rows, columns);
      checkCodeCount(name, codes, rows * columns);
      const packed = new Uint32Array(((rows * bits) / 16) * ((columns * dim) / 2));
      packInto(codes, 0, rows, [rows, columns], (row) => row, packed);
      return new Uint8Array(packed.buffer);
    },
    packTile(codes, index, rows, columns) {
      checkShape(rows, columns);
      checkTile(packing, index, rows);
      checkCodeCount(name, codes, tileRows * columns);
      const fields = (columns * dim) / 2;
      const planes = tilePlanes(index, rows);
      const packed = new Uint32Array(planes.reduce((sum, [, count]) => sum + count, 0) * fields);
      packInto(codes, index * tileRows, tileRows, [rows, columns], rowInTile(index, rows), packed);
      const bytes = new Uint8Array(packed.buffer);
      let done = 0;
      return planes.map(([start, count]): PackedRun => {
        const data = bytes.subarray(4 * fields * done, 4 * fields * (done + count));
        done += count;
        return { at: 2 * fields * start, data };
      });
    },
    tileRuns(index, rows, columns) {
      checkShape(rows, columns);
      checkTile(packing, index, rows);
      const width = columns * dim; // i16 elements of a row of words
      return tilePlanes(index, rows).map(([start, count]) => ({ at: width * start, count: width * count }));
    },
    unpackTile(packed, index, rows, columns) {
      checkShape(rows, columns);
      checkTile(packing, index, rows);
      const codes = new Uint8Array(tileRows * columns);
      checkPackedBytes(name, packed, (codes.length * bits * dim) / 8);
      const from = index * codes.length;
      unpackInto(packed, [from, from + codes.length], [rows, columns], rowInTile(index, rows), codes);
      return codes;
    },
    unpack(packed, rows, columns) {
      const codes = new Uint8Array(rows * columns);
      packing.unpackRange(packed, rows, columns, 0, codes.length, codes);
      return codes;
    },
    unpackRange(packed, rows, columns, from, to, into) {
      checkShape(rows, columns);
      const fields = (columns * dim) / 2;
      checkRange(name, packed, ((rows * bits) / 16) * fields * 4, rows * columns, [from, to], into);
      unpackInto(packed, [from, to], [rows, columns], (row) => row, into);
    },
  };
  return packing;
}

/** All of them. No file has 3 bits in tiles of 64: FLUTE's packer refuses it, though its kernel reads it. */
export const FLUTE: readonly TilePacking[] = ([2, 3, 4] as const).flatMap((bits) =>
  ([1, 2] as const).flatMap((dim) => ([32, 64] as const).map((tile) => flute(bits, dim, tile))),
);
