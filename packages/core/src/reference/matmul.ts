// Products of rows with the rows of a weight, summed in float64.
//
// Every sum starts at zero and runs over the inputs in order, one after another, whatever kernel computes it; the bias is added last and the
// result is rounded to float32 once. A product of two float32 numbers is exact in float64, so a result depends neither on the other rows of the
// step nor on how rows are tiled. The tiles (4 weight rows x 4 rows of x) only reuse loads and hide the latency of the additions.

import type { Matrix } from '../spec/tensor.ts';
import { Rotations } from './rotation.ts';
import type { HeldWeight } from './weights.ts';

/**
 * out[row][at + i] = sum over k of x[row][k] * w[i][k] + bias[at + i], for the `count` weight rows in `w` [count, inp].
 * x is [rows, inp]; out is [rows, width].
 */
function multiplyTile(
  x: Float64Array,
  rows: number,
  inp: number,
  w: Float64Array,
  count: number,
  out: Float32Array,
  width: number,
  at: number,
  bias: Float32Array | undefined,
): void {
  const sums = new Float64Array(16);
  for (let i = 0; i < count; i += 4) {
    const tall = Math.min(4, count - i);
    for (let row = 0; row < rows; row += 4) {
      const wide = Math.min(4, rows - row);
      if (tall === 4 && wide === 4) products4x4(x, row * inp, w, i * inp, inp, sums);
      else for (let r = 0; r < wide; r++) productsBy4(x, (row + r) * inp, w, i * inp, inp, tall, sums, r * 4);
      for (let r = 0; r < wide; r++) {
        const to = (row + r) * width + at + i;
        for (let j = 0; j < tall; j++) out[to + j] = bias ? sums[r * 4 + j]! + bias[at + i + j]! : sums[r * 4 + j]!;
      }
    }
  }
}

/** sums[4 r + j] = x[r].w[j] for r, j < 4. */
function products4x4(x: Float64Array, xAt: number, w: Float64Array, wAt: number, n: number, sums: Float64Array): void {
  const [x1, x2, x3] = [xAt + n, xAt + 2 * n, xAt + 3 * n];
  const [w1, w2, w3] = [wAt + n, wAt + 2 * n, wAt + 3 * n];
  let [a0, a1, a2, a3, b0, b1, b2, b3] = [0, 0, 0, 0, 0, 0, 0, 0];
  let [c0, c1, c2, c3, d0, d1, d2, d3] = [0, 0, 0, 0, 0, 0, 0, 0];
  for (let k = 0; k < n; k++) {
    const u0 = w[wAt + k]!;
    const u1 = w[w1 + k]!;
    const u2 = w[w2 + k]!;
    const u3 = w[w3 + k]!;
    let v = x[xAt + k]!;
    a0 += v * u0;
    a1 += v * u1;
    a2 += v * u2;
    a3 += v * u3;
    v = x[x1 + k]!;
    b0 += v * u0;
    b1 += v * u1;
    b2 += v * u2;
    b3 += v * u3;
    v = x[x2 + k]!;
    c0 += v * u0;
    c1 += v * u1;
    c2 += v * u2;
    c3 += v * u3;
    v = x[x3 + k]!;
    d0 += v * u0;
    d1 += v * u1;
    d2 += v * u2;
    d3 += v * u3;
  }
  sums.set([a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3]);
}

/** sums[at + j] = x.w[j] for j < tall (at most 4). */
function productsBy4(
  x: Float64Array,
  xAt: number,
  w: Float64Array,
  wAt: number,
  n: number,
  tall: number,
  sums: Float64Array,
  at: number,
): void {
  if (tall < 4) {
    for (let j = 0; j < tall; j++) {
      let sum = 0;
      for (let k = 0; k < n; k++) sum += x[xAt + k]! * w[wAt + j * n + k]!;
      sums[at + j] = sum;
    }
    return;
  }
  const [w1, w2, w3] = [wAt + n, wAt + 2 * n, wAt + 3 * n];
  let [s0, s1, s2, s3] = [0, 0, 0, 0];
  for (let k = 0; k < n; k++) {
    const v = x[xAt + k]!;
    s0 += v * w[wAt + k]!;
    s1 += v * w[w1 + k]!;
    s2 += v * w[w2 + k]!;
    s3 += v * w[w3 + k]!;
  }
  sums[at] = s0;
  sums[at + 1] = s1;
  sums[at + 2] = s2;
  sums[at + 3] = s3;
}

const TILE_ROWS = 16;
/** From so many rows on a weight is widened once for all of them; for fewer the fused kernel runs per row. */
const TILE_FROM = 4;

/** out [rows, count] = x [rows, inp] W^T + bias, or the format's own product. `rotations` are those of the step at hand. */
export function multiply(
  weight: HeldWeight,
  [count, inp]: Matrix,
  x: Float32Array,
  bias: Float32Array | undefined,
  out: Float32Array,
  rotations: Rotations = new Rotations(),
): void {
  if (weight.multiply) {
    weight.multiply(x, bias, out);
  } else if (weight.rotated) {
    const { rotation, weight: inner } = weight.rotated;
    multiplyWide(inner, [count, rotation.columns], rotations.of(x, inp, rotation), bias, out);
  } else {
    multiplyWide(weight, [count, inp], new Float64Array(x), bias, out);
  }
}

function multiplyWide(
  weight: HeldWeight,
  [count, inp]: Matrix,
  wide: Float64Array,
  bias: Float32Array | undefined,
  out: Float32Array,
): void {
  const rows = wide.length / inp;
  if (weight.multiplyRow && rows < TILE_FROM) {
    for (let row = 0; row < rows; row++) {
      weight.multiplyRow(wide.subarray(row * inp, (row + 1) * inp), out.subarray(row * count, (row + 1) * count), bias);
    }
    return;
  }
  const tile = new Float64Array(Math.min(TILE_ROWS, count) * inp);
  for (let at = 0; at < count; at += TILE_ROWS) {
    const end = Math.min(count, at + TILE_ROWS);
    weight.fill(at, end, tile);
    multiplyTile(wide, rows, inp, tile, end - at, out, count, at, bias);
  }
}
