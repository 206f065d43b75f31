// Codes, a byte each, as the bit stream of wgsl/weight.ts: rows of whole words, the first code in the lowest bits.

import { LowbitError } from '@lowbit/core';

/** Throws ERR_TENSOR_MISMATCH for a code that does not fit. */
export function packRows(codes: Uint8Array, columns: number, width: number, rowWords: number): Uint32Array {
  const rows = codes.length / columns;
  const words = new Uint32Array(rows * rowWords);
  const most = 2 ** width - 1;
  let seen = 0;
  if (width === 8) {
    const bytes = new Uint8Array(words.buffer);
    for (let row = 0; row < rows; row++) bytes.set(codes.subarray(row * columns, (row + 1) * columns), row * rowWords * 4);
    return words;
  }
  const perWord = 32 / width;
  if (Number.isInteger(perWord)) {
    for (let row = 0, at = 0; row < rows; row++) {
      const end = at + columns;
      for (let word = row * rowWords; at < end; word++) {
        const stop = Math.min(end, at + perWord);
        let value = 0;
        for (let shift = 0; at < stop; at++, shift += width) {
          const code = codes[at]!;
          seen |= code;
          value |= code << shift;
        }
        words[word] = value;
      }
    }
  } else {
    for (let row = 0, at = 0; row < rows; row++) {
      let word = row * rowWords;
      let value = 0;
      let shift = 0;
      for (const end = at + columns; at < end; at++) {
        const code = codes[at]!;
        seen |= code;
        value |= code << shift;
        shift += width;
        if (shift < 32) continue;
        words[word++] = value;
        shift -= 32;
        value = shift === 0 ? 0 : code >>> (width - shift);
      }
      if (shift > 0) words[word] = value;
    }
  }
  if (seen <= most) return words;
  const bad = codes.findIndex((code) => code > most);
  throw new LowbitError('ERR_TENSOR_MISMATCH', `part 'codes': code ${codes[bad]} does not fit ${width} bits`, {
    hint: 'The tensor is damaged, or of another format than its header says.',
    details: { part: 'codes', code: codes[bad], bits: width },
  });
}

/** Rows of bytes, each filled up with zeros to `stride` bytes. */
export function padRows(bytes: Uint8Array, row: number, stride: number): Uint8Array {
  if (row === stride) return bytes;
  const rows = bytes.length / row;
  const padded = new Uint8Array(rows * stride);
  for (let i = 0; i < rows; i++) padded.set(bytes.subarray(i * row, (i + 1) * row), i * stride);
  return padded;
}
