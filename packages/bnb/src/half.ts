// Rounding by adding and taking off a large number: in float64, x + c - c is x to the nearest multiple of c's unit in the last place, ties to even, if c
// is 1.5 times a power of two much larger than x. No branches, no conversion of bits.

/** `x + TO_INTEGER - TO_INTEGER` is the integer nearest to x, ties to even. */
export const TO_INTEGER: number = 1.5 * 2 ** 52;

/**
 * By the sign and exponent of a float32 (its upper 9 bits): `x + c - c` is the nearest float16, ties to even. A float16 keeps 10 bits below the
 * exponent, and from 2^-14 downwards multiples of 2^-24. Numbers from 65520 up come out as 65536 or more, which float16 does not have.
 */
export const HALF_ROUNDERS: Float64Array = Float64Array.from({ length: 512 }, (_, upper) => {
  const exponent = Math.max((upper & 255) - 127, -14);
  return TO_INTEGER * 2 ** (exponent - 10);
});
