// K-quants: blocks of 256 weights with scales of their own for 16 or 32 of them. Formulas: dequantize_row_q*_K of ggml/src/ggml-quants.c (llama.cpp, MIT).

import { type DecodeBlocks, half } from './blocks.ts';

const { fround } = Math;
const BLOCK = 256;

/** 16 bytes of 4-bit scales and minima, 64 bytes of codes, f16 d, f16 dmin: (d s) q - dmin m. */
export const q2_K: DecodeBlocks = (bytes, out) => {
  for (let at = 0, to = 0; to < out.length; at += 84, to += BLOCK) {
    const d = half(bytes, at + 80);
    const dmin = half(bytes, at + 82);
    for (let sub = 0; sub < 16; sub++) {
      const scale = fround(d * (bytes[at + sub]! & 15));
      const least = fround(dmin * (bytes[at + sub]! >> 4));
      // Eight runs of 16 share 32 bytes: four shifts, two halves.
      const from = at + 16 + (sub >> 3) * 32 + (sub & 1) * 16;
      const shift = ((sub >> 1) & 3) * 2;
      for (let i = 0; i < 16; i++) out[to + sub * 16 + i] = fround(scale * ((bytes[from + i]! >> shift) & 3)) - least;
    }
  }
};

/** 32 bytes of third bits, 64 of codes, 12 of 6-bit scales, f16 d: d (s - 32) q, where a third bit of 0 takes 4 off. */
export const q3_K: DecodeBlocks = (bytes, out) => {
  for (let at = 0, to = 0; to < out.length; at += 110, to += BLOCK) {
    const d = half(bytes, at + 108);
    for (let sub = 0; sub < 16; sub++) {
      const low = (bytes[at + 96 + (sub & 7)]! >> (4 * (sub >> 3))) & 15;
      const high = (bytes[at + 104 + (sub & 3)]! >> (2 * (sub >> 2))) & 3;
      const scale = fround(d * ((low | (high << 4)) - 32));
      const from = at + 32 + (sub >> 3) * 32 + (sub & 1) * 16;
      const shift = ((sub >> 1) & 3) * 2;
      const mask = at + (sub & 1) * 16;
      const bit = sub >> 1;
      for (let i = 0; i < 16; i++) {
        const code = (bytes[from + i]! >> shift) & 3;
        out[to + sub * 16 + i] = scale * (code - ((bytes[mask + i]! >> bit) & 1 ? 0 : 4));
      }
    }
  }
};

/** Scale and minimum number j of 8, 6 bits each, of 12 bytes (get_scale_min_k4). */
function scaleMin(bytes: Uint8Array, at: number, j: number): readonly [scale: number, min: number] {
  if (j < 4) return [bytes[at + j]! & 63, bytes[at + j + 4]! & 63];
  const both = bytes[at + j + 4]!;
  return [(both & 15) | ((bytes[at + j - 4]! >> 6) << 4), (both >> 4) | ((bytes[at + j]! >> 6) << 4)];
}

/** f16 d, f16 dmin, 12 bytes of scales and minima, `fifths` bytes of fifth bits, 128 of codes: (d s) q - dmin m. */
const withMinima =
  (fifths: 0 | 32): DecodeBlocks =>
  (bytes, out) => {
    for (let at = 0, to = 0; to < out.length; at += 144 + fifths, to += BLOCK) {
      const d = half(bytes, at);
      const dmin = half(bytes, at + 2);
      for (let sub = 0; sub < 8; sub++) {
        const [s, m] = scaleMin(bytes, at + 4, sub);
        const scale = fround(d * s);
        const least = fround(dmin * m);
        const from = at + 16 + fifths + (sub >> 1) * 32;
        const shift = 4 * (sub & 1);
        for (let i = 0; i < 32; i++) {
          const fifth = fifths === 0 ? 0 : ((bytes[at + 16 + i]! >> sub) & 1) << 4;
          out[to + sub * 32 + i] = fround(scale * (((bytes[from + i]! >> shift) & 15) | fifth)) - least;
        }
      }
    }
  };

export const q4_K: DecodeBlocks = withMinima(0);
export const q5_K: DecodeBlocks = withMinima(32);

/** 128 bytes of low nibbles, 64 of high pairs, 16 signed scales, f16 d: d s (q - 32). */
export const q6_K: DecodeBlocks = (bytes, out) => {
  for (let at = 0, to = 0; to < out.length; at += 210, to += BLOCK) {
    const d = half(bytes, at + 208);
    // Runs of 32: four a half of the block, of which two share the nibbles of 32 bytes, and all four the pairs of 32.
    for (let run = 0; run < 8; run++) {
      const half = run >> 2;
      const quarter = run & 3;
      const low = at + half * 64 + (quarter & 1) * 32;
      const high = at + 128 + half * 32;
      const shift = 4 * (quarter >> 1);
      for (let i = 0; i < 32; i++) {
        const scale = fround(d * ((bytes[at + 192 + run * 2 + (i >> 4)]! << 24) >> 24));
        const code = ((bytes[low + i]! >> shift) & 15) | (((bytes[high + i]! >> (2 * quarter)) & 3) << 4);
        out[to + run * 32 + i] = scale * (code - 32);
      }
    }
  }
};
