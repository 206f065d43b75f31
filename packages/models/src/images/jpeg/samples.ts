// From coefficients to samples of the whole image, with the arithmetic of libjpeg and libjpeg-turbo, so that pixels are those of Pillow: the slow integer
// transform (jidctint.c) and spreading colours along slopes (jdsample.c).

import type { Rest } from '../rest.ts';
import type { Component, Frame } from './frame.ts';

/** The samples of a component, without what fills up blocks: [height, width]. */
async function plane({ width, height, blocksAcross, coefficients }: Component, table: Uint16Array, rest: Rest): Promise<Uint8Array> {
  const out = new Uint8Array(width * height);
  const block = new Uint8ClampedArray(64);
  const work = new Int32Array(64);
  for (let top = 0; top < height; top += 8) {
    await rest();
    for (let left = 0; left < width; left += 8) {
      inverse(coefficients, 64 * ((top >> 3) * blocksAcross + (left >> 3)), table, work, block);
      const columns = Math.min(8, width - left);
      const rows = Math.min(8, height - top);
      for (let y = 0; y < rows; y++) {
        const to = (top + y) * width + left;
        for (let x = 0; x < columns; x++) out[to + x] = block[8 * y + x]!;
      }
    }
  }
  return out;
}

// Sines and cosines of the transform, times 2^13.
const F_0_298 = 2446;
const F_0_390 = 3196;
const F_0_541 = 4433;
const F_0_765 = 6270;
const F_0_899 = 7373;
const F_1_175 = 9633;
const F_1_501 = 12_299;
const F_1_847 = 15_137;
const F_1_961 = 16_069;
const F_2_053 = 16_819;
const F_2_562 = 20_995;
const F_3_072 = 25_172;

/** Eight numbers, `step` apart, transformed in place; results have `shift` bits less. */
function transform(work: Int32Array, at: number, step: number, shift: number): void {
  const x0 = work[at]!;
  const x1 = work[at + step]!;
  const x2 = work[at + 2 * step]!;
  const x3 = work[at + 3 * step]!;
  const x4 = work[at + 4 * step]!;
  const x5 = work[at + 5 * step]!;
  const x6 = work[at + 6 * step]!;
  const x7 = work[at + 7 * step]!;
  const round = 1 << (shift - 1);
  const even = (x2 + x6) * F_0_541;
  const a2 = even - x6 * F_1_847;
  const a3 = even + x2 * F_0_765;
  const a0 = (x0 + x4) * 8192 + round;
  const a1 = (x0 - x4) * 8192 + round;
  const b0 = a0 + a3;
  const b3 = a0 - a3;
  const b1 = a1 + a2;
  const b2 = a1 - a2;
  const z5 = (x7 + x3 + x5 + x1) * F_1_175;
  const z1 = (x7 + x1) * F_0_899;
  const z2 = (x5 + x3) * F_2_562;
  const z3 = z5 - (x7 + x3) * F_1_961;
  const z4 = z5 - (x5 + x1) * F_0_390;
  const c0 = x7 * F_0_298 - z1 + z3;
  const c1 = x5 * F_2_053 - z2 + z4;
  const c2 = x3 * F_3_072 - z2 + z3;
  const c3 = x1 * F_1_501 - z1 + z4;
  work[at] = (b0 + c3) >> shift;
  work[at + 7 * step] = (b0 - c3) >> shift;
  work[at + step] = (b1 + c2) >> shift;
  work[at + 6 * step] = (b1 - c2) >> shift;
  work[at + 2 * step] = (b2 + c1) >> shift;
  work[at + 5 * step] = (b2 - c1) >> shift;
  work[at + 3 * step] = (b3 + c0) >> shift;
  work[at + 4 * step] = (b3 - c0) >> shift;
}

function inverse(coefficients: Int16Array, at: number, table: Uint16Array, work: Int32Array, out: Uint8ClampedArray): void {
  for (let i = 0; i < 64; i++) work[i] = coefficients[at + i]! * table[i]!;
  for (let column = 0; column < 8; column++) transform(work, column, 8, 11);
  for (let row = 0; row < 64; row += 8) transform(work, row, 1, 18);
  for (let i = 0; i < 64; i++) out[i] = work[i]! + 128;
}

/** The samples of a component for every pixel of the image. */
export async function fullPlane(
  component: Component,
  { width, height, hMax, vMax }: Frame,
  table: Uint16Array,
  rest: Rest,
): Promise<Uint8Array> {
  const own = await plane(component, table, rest);
  const { h, v } = component;
  if (h === hMax && v === vMax) return own;
  const smooth = component.width > 2;
  if (2 * h === hMax && v === vMax && smooth) return twiceAcross(own, component, { width, height }, rest);
  if (2 * h === hMax && 2 * v === vMax && smooth) return twiceBoth(own, component, { width, height }, rest);
  if (h === hMax && 2 * v === vMax) return twiceDown(own, component, { width, height }, rest);
  const out = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    await rest();
    const row = Math.min(component.height - 1, Math.floor((y * v) / vMax)) * component.width;
    for (let x = 0; x < width; x++) out[y * width + x] = own[row + Math.min(component.width - 1, Math.floor((x * h) / hMax))]!;
  }
  return out;
}

interface Size {
  readonly width: number;
  readonly height: number;
}

async function twiceAcross(from: Uint8Array, own: Size, { width, height }: Size, rest: Rest): Promise<Uint8Array> {
  const out = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    await rest();
    const row = y * own.width;
    for (let x = 0; x < width; x++) {
      const at = x >> 1;
      const value = from[row + at]!;
      const near = x & 1 ? Math.min(own.width - 1, at + 1) : Math.max(0, at - 1);
      out[y * width + x] = near === at ? value : (3 * value + from[row + near]! + (x & 1 ? 2 : 1)) >> 2;
    }
  }
  return out;
}

async function twiceDown(from: Uint8Array, own: Size, { width, height }: Size, rest: Rest): Promise<Uint8Array> {
  const out = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    await rest();
    const [row, other] = neighbours(y, own);
    for (let x = 0; x < width; x++) out[y * width + x] = (3 * from[row + x]! + from[other + x]! + (y & 1 ? 2 : 1)) >> 2;
  }
  return out;
}

async function twiceBoth(from: Uint8Array, own: Size, { width, height }: Size, rest: Rest): Promise<Uint8Array> {
  const out = new Uint8Array(width * height);
  const sums = new Int32Array(own.width);
  for (let y = 0; y < height; y++) {
    await rest();
    const [row, other] = neighbours(y, own);
    for (let x = 0; x < own.width; x++) sums[x] = 3 * from[row + x]! + from[other + x]!;
    for (let x = 0; x < width; x++) {
      const at = x >> 1;
      const near = x & 1 ? Math.min(own.width - 1, at + 1) : Math.max(0, at - 1);
      out[y * width + x] = (3 * sums[at]! + sums[near]! + (x & 1 ? 7 : 8)) >> 4;
    }
  }
  return out;
}

/** Where the row that a pixel's row lies in begins, and the nearer one above or below it. */
function neighbours(y: number, { width, height }: Size): readonly [row: number, other: number] {
  const at = y >> 1;
  const near = y & 1 ? Math.min(height - 1, at + 1) : Math.max(0, at - 1);
  return [at * width, near * width];
}
