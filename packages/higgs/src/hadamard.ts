// The fast Walsh-Hadamard transform, unnormalised, in float32: H[i][j] = (-1)^popcount(i & j), symmetric, and H H = n I.
//
// Normative: for h = 1, 2, 4, ... elements i and i + h of every span of 2h become (a + b, a - b), each sum rounded to float32. What the loops below
// do in one visit, and in which order they visit, changes none of these sums and so no byte.

/** Transforms values[from, from + n) in place; n is a power of two. */
export function hadamard(values: Float32Array, from: number, n: number): void {
  let h = n >= 8 ? eights(values, from, n) : 1;
  if (Math.log2(n / h) % 2 === 1) h = pairs(values, from, n, h);
  for (; h < n; h *= 4) quads(values, from, n, h);
}

const { fround } = Math;

/** Steps 1, 2 and 4, on 8 neighbours at a time. */
function eights(x: Float32Array, from: number, n: number): number {
  for (let i = from; i < from + n; i += 8) {
    const a0 = x[i]!;
    const a1 = x[i + 1]!;
    const a2 = x[i + 2]!;
    const a3 = x[i + 3]!;
    const a4 = x[i + 4]!;
    const a5 = x[i + 5]!;
    const a6 = x[i + 6]!;
    const a7 = x[i + 7]!;
    const b0 = fround(a0 + a1);
    const b1 = fround(a0 - a1);
    const b2 = fround(a2 + a3);
    const b3 = fround(a2 - a3);
    const b4 = fround(a4 + a5);
    const b5 = fround(a4 - a5);
    const b6 = fround(a6 + a7);
    const b7 = fround(a6 - a7);
    const c0 = fround(b0 + b2);
    const c1 = fround(b1 + b3);
    const c2 = fround(b0 - b2);
    const c3 = fround(b1 - b3);
    const c4 = fround(b4 + b6);
    const c5 = fround(b5 + b7);
    const c6 = fround(b4 - b6);
    const c7 = fround(b5 - b7);
    x[i] = c0 + c4;
    x[i + 1] = c1 + c5;
    x[i + 2] = c2 + c6;
    x[i + 3] = c3 + c7;
    x[i + 4] = c0 - c4;
    x[i + 5] = c1 - c5;
    x[i + 6] = c2 - c6;
    x[i + 7] = c3 - c7;
  }
  return 8;
}

/** Step h. Gives the next one. */
function pairs(x: Float32Array, from: number, n: number, h: number): number {
  for (let span = from; span < from + n; span += 2 * h) {
    for (let i = span; i < span + h; i++) {
      const a = x[i]!;
      const b = x[i + h]!;
      x[i] = a + b;
      x[i + h] = a - b;
    }
  }
  return 2 * h;
}

/** Steps h and 2h. */
function quads(x: Float32Array, from: number, n: number, h: number): void {
  const [h2, h3] = [2 * h, 3 * h];
  for (let span = from; span < from + n; span += 4 * h) {
    for (let i = span; i < span + h; i++) {
      const a = x[i]!;
      const b = x[i + h]!;
      const c = x[i + h2]!;
      const d = x[i + h3]!;
      const ab = fround(a + b);
      const aLessB = fround(a - b);
      const cd = fround(c + d);
      const cLessD = fround(c - d);
      x[i] = ab + cd;
      x[i + h] = aLessB + cLessD;
      x[i + h2] = ab - cd;
      x[i + h3] = aLessB - cLessD;
    }
  }
}
