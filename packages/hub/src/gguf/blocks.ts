// Blocks of 32 weights, as numbers. Formulas: dequantize_row_* of ggml/src/ggml-quants.c (llama.cpp, MIT), in float32 as there; each rounding is written out.
// Where a byte holds two codes, the low nibbles are the first half of the block.

import { fromF16 } from '@lowbit/core';

/** Decodes whole blocks: `bytes` has as many as `out` has room for. Sizes are the caller's to check. */
export type DecodeBlocks = (bytes: Uint8Array, out: Float32Array) => void;

/** The f16 at a byte. */
export function half(bytes: Uint8Array, at: number): number {
  return fromF16(bytes[at]! | (bytes[at + 1]! << 8));
}

const { fround } = Math;
const HALF = 16;
const BLOCK = 32;

/** d (q - 8): f16 d, 16 bytes. */
export const q4_0: DecodeBlocks = (bytes, out) => {
  for (let at = 0, to = 0; to < out.length; at += 18, to += BLOCK) {
    const d = half(bytes, at);
    for (let i = 0; i < HALF; i++) {
      const byte = bytes[at + 2 + i]!;
      out[to + i] = d * ((byte & 15) - 8);
      out[to + HALF + i] = d * ((byte >> 4) - 8);
    }
  }
};

/** d q + m: f16 d, f16 m, 16 bytes. */
export const q4_1: DecodeBlocks = (bytes, out) => {
  for (let at = 0, to = 0; to < out.length; at += 20, to += BLOCK) {
    const d = half(bytes, at);
    const m = half(bytes, at + 2);
    for (let i = 0; i < HALF; i++) {
      const byte = bytes[at + 4 + i]!;
      out[to + i] = fround(d * (byte & 15)) + m;
      out[to + HALF + i] = fround(d * (byte >> 4)) + m;
    }
  }
};

/** d (q - 16): f16 d, the fifth bits as 4 bytes, 16 bytes. */
export const q5_0: DecodeBlocks = (bytes, out) => {
  for (let at = 0, to = 0; to < out.length; at += 22, to += BLOCK) {
    const d = half(bytes, at);
    for (let i = 0; i < HALF; i++) {
      const byte = bytes[at + 6 + i]!;
      out[to + i] = d * (((byte & 15) | fifth(bytes, at + 2, i)) - 16);
      out[to + HALF + i] = d * (((byte >> 4) | fifth(bytes, at + 2, i + HALF)) - 16);
    }
  }
};

/** d q + m: f16 d, f16 m, the fifth bits, 16 bytes. */
export const q5_1: DecodeBlocks = (bytes, out) => {
  for (let at = 0, to = 0; to < out.length; at += 24, to += BLOCK) {
    const d = half(bytes, at);
    const m = half(bytes, at + 2);
    for (let i = 0; i < HALF; i++) {
      const byte = bytes[at + 8 + i]!;
      out[to + i] = fround(d * ((byte & 15) | fifth(bytes, at + 4, i))) + m;
      out[to + HALF + i] = fround(d * ((byte >> 4) | fifth(bytes, at + 4, i + HALF))) + m;
    }
  }
};

/** Bit i of 32, as the value 16. */
function fifth(bytes: Uint8Array, at: number, i: number): number {
  return ((bytes[at + (i >> 3)]! >> (i & 7)) & 1) << 4;
}

/** d q: f16 d, 32 signed bytes. */
export const q8_0: DecodeBlocks = (bytes, out) => {
  for (let at = 0, to = 0; to < out.length; at += 34, to += BLOCK) {
    const d = half(bytes, at);
    for (let i = 0; i < BLOCK; i++) out[to + i] = d * ((bytes[at + 2 + i]! << 24) >> 24);
  }
};

const IQ4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/** d times a table (kvalues_iq4nl): f16 d, 16 bytes. */
export const iq4_nl: DecodeBlocks = (bytes, out) => {
  for (let at = 0, to = 0; to < out.length; at += 18, to += BLOCK) {
    const d = half(bytes, at);
    for (let i = 0; i < HALF; i++) {
      const byte = bytes[at + 2 + i]!;
      out[to + i] = d * IQ4[byte & 15]!;
      out[to + HALF + i] = d * IQ4[byte >> 4]!;
    }
  }
};

/** 256 weights: f16 d, eight 6-bit scales (2 bytes of high bits, 4 of low ones), eight times 16 bytes of the table of iq4_nl. */
export const iq4_xs: DecodeBlocks = (bytes, out) => {
  for (let at = 0, to = 0; to < out.length; at += 136, to += 256) {
    const d = half(bytes, at);
    for (let sub = 0; sub < 8; sub++) {
      const low = (bytes[at + 4 + (sub >> 1)]! >> (4 * (sub & 1))) & 15;
      const high = (bytes[at + 2 + (sub >> 2)]! >> (2 * (sub & 3))) & 3;
      const scale = fround(d * ((low | (high << 4)) - 32));
      const from = at + 8 + sub * HALF;
      for (let i = 0; i < HALF; i++) {
        const byte = bytes[from + i]!;
        out[to + sub * BLOCK + i] = scale * IQ4[byte & 15]!;
        out[to + sub * BLOCK + HALF + i] = scale * IQ4[byte >> 4]!;
      }
    }
  }
};

/** The values of E2M1, doubled. */
const E2M1 = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/** 2^(e - 128) times a doubled E2M1: one byte e, 16 bytes. */
export const mxfp4: DecodeBlocks = (bytes, out) => {
  for (let at = 0, to = 0; to < out.length; at += 17, to += BLOCK) {
    const d = 2 ** (bytes[at]! - 128);
    for (let i = 0; i < HALF; i++) {
      const byte = bytes[at + 1 + i]!;
      out[to + i] = d * E2M1[byte & 15]!;
      out[to + HALF + i] = d * E2M1[byte >> 4]!;
    }
  }
};
