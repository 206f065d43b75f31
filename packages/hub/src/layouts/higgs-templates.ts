// FLUTE's kernels by number (`template_id`), as far as files depend on them. Numbers are the same in FLUTE 0.2.6 to 0.4.2.
//
//   4 bits      id = 48 a + 16 c + 4 s + d         blocks per multiprocessor (a: 1, 2, 4), threads and tiles (c), stages (s), copies of the table (d)
//   2, 3 bits   id = 12 a + 4 c + s                c = 0: tiles of 64 rows of words, else of 32

import type { Json } from '@lowbit/core';

/** The tile that codes are packed in. `fail` makes the error for what is no kernel. */
export function tileOf(bits: number, template: Json, fail: () => Error): 32 | 64 {
  if (!isTemplate(bits, template)) throw fail();
  return bits === 4 ? (template % 48 < 16 ? 64 : 32) : template % 12 < 4 ? 64 : 32;
}

/** True for the number of a kernel for so many bits. */
export function isTemplate(bits: number, template: Json | undefined): template is number {
  return Number.isSafeInteger(template) && (template as number) >= 0 && (template as number) < (bits === 4 ? 144 : 36);
}

/** A kernel with one block per multiprocessor and 3 stages, for one row of activations: what the most layers are large enough for. */
export function defaultTemplate(bits: number, tile: 32 | 64): number {
  if (bits === 4) return tile === 32 ? 36 : 4;
  return tile === 32 ? 9 : 1;
}

/** Rows of words of a matrix. */
const wordRows = (bits: number, out: number): number => Math.ceil(out / 16) * (bits === 3 ? 1 : bits);

/**
 * True if FLUTE 0.4 finds a kernel for the layer on a GPU of so many multiprocessors, which it must to load a file that was made for another GPU.
 * `flute/tune.py`: some template has tiles enough for one block on each.
 */
export function isTunable(bits: number, [out, columns]: readonly [number, number], sms: number): boolean {
  return Math.ceil(wordRows(bits, out) / 32) * Math.ceil(columns / 64) >= sms;
}
