// The two tables of bitsandbytes' 4-bit codes. A code is an index into its table; that of FP4 is in no order.

/** Values of NF4 by code, ascending: quantiles of the normal distribution (Dettmers et al., 2023), as the float32 numbers of bitsandbytes. */
export const NF4_TABLE: Float32Array = Float32Array.of(
  -1,
  -0.6961928009986877,
  -0.5250730514526367,
  -0.39491748809814453,
  -0.28444138169288635,
  -0.18477343022823334,
  -0.09105003625154495,
  0,
  0.07958029955625534,
  0.16093020141124725,
  0.24611230194568634,
  0.33791524171829224,
  0.44070982933044434,
  0.5626170039176941,
  0.7229568362236023,
  1,
);

const FP4_MAGNITUDES = [0, 0.0625, 8, 12, 4, 6, 2, 3].map((raw) => raw / 12);

/** Values of FP4 by code: a sign bit, then magnitudes (two bits of exponent, one of mantissa) over 12. Code 8 is another zero, positive as in Python. */
export const FP4_TABLE: Float32Array = Float32Array.from([...FP4_MAGNITUDES, 0, ...FP4_MAGNITUDES.slice(1).map((magnitude) => -magnitude)]);
