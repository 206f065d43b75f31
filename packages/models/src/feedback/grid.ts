// A code on its grid, in the arithmetic that the routines of feedback have wherever they run.

const fround = Math.fround;

/** Adding and taking it off rounds to an integer, ties to even. */
const ROUND = 1.5 * 2 ** 52;

/** The level nearest to a number: `inverse` is 1 / scale in float64, `top` the highest level. 0 for NaN. */
export function nearestLevel(value: number, inverse: number, zero: number, top: number): number {
  const q = value * inverse + zero + ROUND - ROUND;
  return q > 0 ? Math.min(q, top) : 0;
}

/** Original less what a code stands for, (q - zero) * scale: f32, every step rounded. */
export function errorOf(weight: number, q: number, scale: number, zero: number): number {
  return fround(weight - fround(fround(q - zero) * scale));
}
