// The generator behind seeded sampling: xoshiro128** 1.1 (Blackman and Vigna, public domain), its state filled by SplitMix32 from the seed.
// Part of the contract: with the same backend, the same seed gives the same tokens in every later version.

import { LowbitError } from '@lowbit/core';

/** A uniform number in [0, 1) with 53 random bits, at each call. */
export type Random = () => number;

const rotate = (x: number, k: number): number => (x << k) | (x >>> (32 - k));

/** The bare generator: unsigned 32-bit numbers from four words of state, not all zero. */
export function xoshiro128(state: readonly [number, number, number, number]): () => number {
  let [a, b, c, d] = state;
  return () => {
    const result = Math.imul(rotate(Math.imul(b, 5), 7), 9) >>> 0;
    const t = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= t;
    d = rotate(d, 11);
    return result;
  };
}

function splitMix32(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x9e3779b9) | 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
    return z ^ (z >>> 16);
  };
}

/** Uniform numbers that depend on `seed` alone, a whole number from 0 to 2^53 - 1. Throws ERR_BAD_ARGUMENT for another. */
export function createRandom(seed: number): Random {
  if (!Number.isSafeInteger(seed) || seed < 0) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `seed is ${seed}, expected a whole number from 0 to 2^53 - 1`, { details: { seed } });
  }
  const low = splitMix32(seed);
  const high = splitMix32(Math.floor(seed / 2 ** 32) ^ 0x6a09e667);
  const next = xoshiro128([low(), high(), low(), high()]);
  return () => ((next() >>> 5) * 2 ** 26 + (next() >>> 6)) / 2 ** 53;
}

/** A seed for callers that gave none. */
export function randomSeed(): number {
  return Math.floor(Math.random() * 2 ** 53);
}
