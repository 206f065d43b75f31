// A packing says where each code of a grouped matrix sits in the bytes of a checkpoint's `codes` tensor. The matrix is the weight after grouping,
// R rows by C columns in row-major order, so that "flat element f" is row f div C, column f mod C. Packed data are always plain bytes, whatever
// dtype a file gives them: a view of packed bytes as floats needs no conversion, and must not get one (the patterns may look like NaN).

import { LowbitError } from '../spec/errors.ts';
import type { Shape } from '../spec/tensor.ts';

/** Order of codes in bytes. */
export interface Packing {
  readonly name: string;
  /** Of the packed tensor. */
  readonly dtype: 'u8' | 'i16' | 'i32';
  /** Width of one code: it is in 0 .. 2^bits - 1. */
  readonly bits: number;
  /** Shape of the packed tensor of an R x C matrix. Throws ERR_UNSUPPORTED_FORMAT if the matrix does not fit the packing. */
  shape(rows: number, columns: number): Shape;
  /** Bytes of the packed tensor. Throws ERR_BAD_ARGUMENT if there are not R * C codes or one is too wide. */
  pack(codes: Uint8Array, rows: number, columns: number): Uint8Array;
  /** The R * C codes. Throws ERR_TENSOR_MISMATCH if `packed` has the wrong length. */
  unpack(packed: Uint8Array, rows: number, columns: number): Uint8Array;
  /** Writes the codes of flat elements [from, to) to the start of `into`, reading only the words that hold them. */
  unpackRange(packed: Uint8Array, rows: number, columns: number, from: number, to: number, into: Uint8Array): void;
}

/**
 * A packing whose words hold one code of each of `lanes` bands of rows: with S = wordRows(R), row r is lane r div S of word row r mod S, and lane 0
 * is the most significant. What a streaming quantizer needs to write a block of word rows on its own.
 */
export interface LanePacking extends Packing {
  readonly lanes: number;
  readonly bitsPerLane: number;
  /** S: the rows of words of a matrix of R rows. Throws ERR_UNSUPPORTED_FORMAT if R does not fit. */
  wordRows(rows: number): number;
}

/** Whether it is hqq's kind. */
export function isLanePacking(packing: Packing): packing is LanePacking {
  return 'lanes' in packing;
}

/** Packed elements from index `at` of the packed tensor on. */
export interface PackedRun {
  readonly at: number;
  readonly data: Uint8Array;
}

/** Packed elements [at, at + count). */
export interface TileRun {
  readonly at: number;
  readonly count: number;
}

/**
 * A packing that puts whole tiles of `tileRows` consecutive rows into runs of their own: what a streaming quantizer needs to write a tile as soon as
 * its codes are there.
 */
export interface TilePacking extends Packing {
  readonly tileRows: number;
  /**
   * Packs rows [tile * tileRows, (tile + 1) * tileRows) of an R x C matrix: `codes` are those rows. Throws as `pack`, and ERR_BAD_ARGUMENT for a tile
   * that is not in the matrix.
   */
  packTile(codes: Uint8Array, tile: number, rows: number, columns: number): readonly PackedRun[];
  /** Where the elements of such a tile are in the packed tensor. Throws as `packTile`. */
  tileRuns(tile: number, rows: number, columns: number): readonly TileRun[];
  /** The codes of such a tile; `packed` is the bytes of its runs, one after another. Throws as `packTile`, and ERR_TENSOR_MISMATCH for other than their bytes. */
  unpackTile(packed: Uint8Array, tile: number, rows: number, columns: number): Uint8Array;
}

/** Whether it is FLUTE's kind. */
export function isTilePacking(packing: Packing): packing is TilePacking {
  return 'tileRows' in packing;
}

/** Throws ERR_BAD_ARGUMENT unless `tile` is one of the matrix' tiles. */
export function checkTile(packing: TilePacking, tile: number, rows: number): void {
  if (Number.isInteger(tile) && tile >= 0 && (tile + 1) * packing.tileRows <= rows) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `${packing.name}: tile ${tile} is not in a matrix of ${rows} rows`, {
    details: { packing: packing.name, tile, rows, tileRows: packing.tileRows },
  });
}

/** Throws ERR_TENSOR_MISMATCH unless `packed` has `bytes` bytes. */
export function checkPackedBytes(packing: string, packed: Uint8Array, bytes: number): void {
  if (packed.length === bytes) return;
  throw new LowbitError('ERR_TENSOR_MISMATCH', `${packing}: the packed tensor needs ${bytes} bytes, got ${packed.length}`, {
    details: { packing, expected: bytes, actual: packed.length },
  });
}

/** Throws ERR_BAD_ARGUMENT unless there are `count` codes. */
export function checkCodeCount(packing: string, codes: Uint8Array, count: number): void {
  if (codes.length === count) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `${packing}: expected ${count} codes, got ${codes.length}`, {
    details: { packing, expected: count, actual: codes.length },
  });
}

/** Throws ERR_BAD_ARGUMENT if `union`, the bitwise or of all codes, has a bit beyond `bits`. */
export function checkCodeWidth(packing: string, union: number, bits: number): void {
  if (union >>> bits === 0) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `${packing}: a code does not fit in ${bits} bits`, {
    hint: `Codes must be in 0 .. ${2 ** bits - 1}.`,
    details: { packing, bits },
  });
}

/** Throws ERR_TENSOR_MISMATCH unless `packed` has `bytes` bytes, and ERR_BAD_ARGUMENT unless [from, to) is in the matrix and fits in `into`. */
export function checkRange(
  packing: string,
  packed: Uint8Array,
  bytes: number,
  count: number,
  range: readonly [number, number],
  into: Uint8Array,
): void {
  checkPackedBytes(packing, packed, bytes);
  const [from, to] = range;
  if (from >= 0 && from <= to && to <= count && to - from <= into.length) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `${packing}: cannot unpack elements ${from} to ${to} of ${count} into ${into.length} bytes`, {
    details: { packing, from, to, count, room: into.length },
  });
}
