// Numbers that look random and are the same everywhere.

import { type HostTensor, hostTensor, type Shape } from '@lowbit/core';

/** Uniform numbers in [0, 1) from a seed (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** f32 numbers in [-span, span). */
export function seededFloats(seed: number, count: number, span = 1): Float32Array {
  const next = seeded(seed);
  return Float32Array.from({ length: count }, () => (2 * next() - 1) * span);
}

/** An f32 tensor of numbers in [-span, span). */
export function seededTensor(seed: number, shape: Shape, span = 1): HostTensor {
  return hostTensor(
    'f32',
    shape,
    seededFloats(
      seed,
      shape.reduce((product, extent) => product * extent, 1),
      span,
    ),
  );
}
