// The packings of the HQQ library. Rows that share a word are S rows apart, so a lane is one contiguous run of the flat matrix: elements
// [l * S * C, (l + 1) * S * C) are the field of lane l in words 0 .. S * C - 1. Everything here follows from that.

import { DTYPE_BYTES, elements } from '../dtype.ts';
import { LowbitError } from '../spec/errors.ts';
import type { Shape } from '../spec/tensor.ts';
import { checkCodeCount, checkCodeWidth, checkRange, type LanePacking } from './packing.ts';

interface LaneSettings {
  readonly name: string;
  readonly dtype: 'u8' | 'i32';
  readonly bits: number;
  readonly lanes: number;
  /** Whether a row count that is no multiple of `lanes` is filled up with zero rows (and trimmed again when unpacked). */
  readonly padded: boolean;
}

/** Shift of a lane's field: lane 0 is the most significant. */
function laneShift(packing: LanePacking, lane: number): number {
  return packing.bitsPerLane * (packing.lanes - 1 - lane);
}

/**
 * Packs a block of words: word j gets code j of every lane. laneCodes[l]: codes of rows l * S + [a, b) for the word rows [a, b); a lane that is
 * shorter than the block counts as zero from its end on, as rows beyond R do. `into` takes the words' bytes, little-endian, and sets their number.
 * Throws ERR_BAD_ARGUMENT if the lanes are not `packing.lanes` many, one is longer than the block, or a code is too wide.
 */
export function packLanes(packing: LanePacking, laneCodes: readonly Uint8Array[], into: Uint8Array): void {
  const width = DTYPE_BYTES[packing.dtype];
  const count = into.length / width;
  if (laneCodes.length !== packing.lanes || !Number.isInteger(count) || laneCodes.some((codes) => codes.length > count)) {
    const lengths = laneCodes.map((codes) => codes.length).join(', ');
    throw new LowbitError('ERR_BAD_ARGUMENT', `${packing.name}: lanes of ${lengths} codes do not make ${count} words`, {
      hint: `Pass ${packing.lanes} lanes of at most as many codes as there are words.`,
      details: { packing: packing.name, lanes: packing.lanes, words: count },
    });
  }
  const aligned = into.byteOffset % width === 0;
  const words: Uint8Array | Int32Array =
    packing.dtype === 'u8' ? into : aligned ? new Int32Array(into.buffer as ArrayBuffer, into.byteOffset, count) : new Int32Array(count);
  words.fill(0);
  let union = 0;
  laneCodes.forEach((codes, lane) => {
    const shift = laneShift(packing, lane);
    for (let i = 0; i < codes.length; i++) {
      const code = codes[i]!;
      union |= code;
      words[i]! |= code << shift;
    }
  });
  checkCodeWidth(packing.name, union, packing.bits);
  if (words.buffer !== into.buffer) into.set(new Uint8Array(words.buffer));
}

function lanePacking(layout: LaneSettings): LanePacking {
  const { name, dtype, bits, lanes, padded } = layout;
  const width = DTYPE_BYTES[dtype];
  const wordRows = (rows: number): number => {
    if (padded || rows % lanes === 0) return Math.ceil(rows / lanes);
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${name} puts ${lanes} rows of the grouped matrix into one, but it has ${rows}`, {
      hint: `Choose a group size that makes the rows (axis 1: weights / group, axis 0: group) a multiple of ${lanes}, or pack as 8bit_u8.`,
      details: { packing: name, rows, multiple: lanes },
    });
  };
  const packing: LanePacking = {
    name,
    dtype,
    bits,
    lanes,
    bitsPerLane: bits,
    wordRows,
    shape: (rows: number, columns: number): Shape => [wordRows(rows), columns],
    pack(codes, rows, columns) {
      const lane = wordRows(rows) * columns;
      checkCodeCount(name, codes, rows * columns);
      const packed = new Uint8Array(lane * width);
      const laneCodes = Array.from({ length: lanes }, (_, l) => codes.subarray(l * lane, (l + 1) * lane));
      packLanes(packing, laneCodes, packed);
      return packed;
    },
    unpack(packed, rows, columns) {
      const codes = new Uint8Array(rows * columns);
      packing.unpackRange(packed, rows, columns, 0, codes.length, codes);
      return codes;
    },
    unpackRange(packed, rows, columns, from, to, into) {
      const lane = wordRows(rows) * columns;
      checkRange(name, packed, lane * width, rows * columns, [from, to], into);
      const mask = (1 << bits) - 1;
      let at = 0;
      for (let start = from; start < to; ) {
        const l = Math.floor(start / lane);
        const end = Math.min(to, (l + 1) * lane);
        // Only the words in question, so that a misaligned file costs a copy of these and not of the whole tensor.
        const data = packed.subarray((start - l * lane) * width, (end - l * lane) * width);
        const shift = laneShift(packing, l);
        if (lanes === 1) into.set(data, at);
        else if (dtype === 'u8') unpackRun(data, shift, mask, into, at);
        else unpackRun(elements({ dtype, data }), shift, mask, into, at);
        at += end - start;
        start = end;
      }
    },
  };
  return packing;
}

function unpackRun(words: Uint8Array | Int32Array, shift: number, mask: number, into: Uint8Array, at: number): void {
  for (let i = 0; i < words.length; i++) into[at + i] = (words[i]! >>> shift) & mask;
}

/** HQQ: 8, 6 and 5 bits, one code a byte. */
export const BITS_8_U8: LanePacking = lanePacking({ name: '8bit_u8', dtype: 'u8', bits: 8, lanes: 1, padded: false });
/** HQQ: 4 bits; the high nibbles are the first half of the rows. */
export const BITS_4_U8: LanePacking = lanePacking({ name: '4bit_u8', dtype: 'u8', bits: 4, lanes: 2, padded: false });
/** HQQ: 3 bits, ten codes in an i32 whose top two bits are zero; missing rows are zero. */
export const BITS_3_I32: LanePacking = lanePacking({ name: '3bit_32', dtype: 'i32', bits: 3, lanes: 10, padded: true });
/** HQQ: 2 and 1.58 bits. */
export const BITS_2_U8: LanePacking = lanePacking({ name: '2bit_u8', dtype: 'u8', bits: 2, lanes: 4, padded: false });
/** HQQ: 1 bit. */
export const BITS_1_U8: LanePacking = lanePacking({ name: '1bit_u8', dtype: 'u8', bits: 1, lanes: 8, padded: false });
