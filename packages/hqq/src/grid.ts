// The starting grid of every group: min-max range to scale and zero, each operation rounded to float32 as torch does it.

const fround = Math.fround;

/** A block of groups laid out one after another: `groups` times `size` weights, with the grid being solved for each group. */
export interface GroupBlock {
  readonly weights: Float32Array;
  readonly groups: number;
  readonly size: number;
}

/** How ranges become grids. */
export type MinMaxRules = {
  readonly levels: number;
  readonly roundZero: boolean;
  /** Groups whose range is at most 1e-4 have scale 1 (hqq 0.2.7 and later). Before, constant groups got 1 / 2e4. */
  readonly smallRange: boolean;
};

/**
 * Inverse scales s and zeros z of the groups: s = (1 / (max - min)) * (levels - 1), at most 2e4, 1 for small ranges where the rules say so; z = -min * s.
 * torch evaluates number / tensor as reciprocal times number, hence two roundings in s.
 * @param inverse f32 [groups], written
 * @param zero f32 [groups], written
 */
export function minMaxGrid(block: GroupBlock, rules: MinMaxRules, inverse: Float32Array, zero: Float32Array): void {
  const { weights, groups, size } = block;
  const { levels, roundZero, smallRange } = rules;
  const top = levels - 1;
  for (let g = 0, at = 0; g < groups; g++, at += size) {
    let lo = weights[at]!;
    let hi = lo;
    for (let i = at + 1; i < at + size; i++) {
      const w = weights[i]!;
      if (w < lo) lo = w;
      if (w > hi) hi = w;
    }
    const range = fround(hi - lo);
    let s = smallRange && range <= 1e-4 ? 1 : fround(fround(1 / range) * top);
    if (s > 2e4) s = 2e4;
    const z = fround(-lo * s);
    inverse[g] = s;
    zero[g] = roundZero ? roundHalfEven(z) : z;
  }
}

/** 1.5 * 2^52: adding and subtracting it rounds a double of magnitude below 2^51 to an integer, ties to even. */
export const ROUND = 6755399441055744;

function roundHalfEven(x: number): number {
  return x + ROUND - ROUND;
}

/**
 * Codes clamp(round(w * s + z), 0, levels - 1), multiply and add rounded apart.
 * @param codes u8 [groups * size], written
 */
export function assignCodes(block: GroupBlock, levels: number, inverse: Float32Array, zero: Float32Array, codes: Uint8Array): void {
  const { weights, groups, size } = block;
  const top = levels - 1;
  for (let g = 0, at = 0; g < groups; g++, at += size) {
    const s = inverse[g]!;
    const z = zero[g]!;
    for (let i = at; i < at + size; i++) {
      codes[i] = Math.min(Math.max(fround(fround(weights[i]! * s) + z) + ROUND - ROUND, 0), top);
    }
  }
}
