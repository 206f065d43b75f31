import { roundTo } from '@lowbit/core';
import { seededFloats } from '@lowbit/testing';
import { expect, it } from 'vitest';
import { roundInPlace } from './half.ts';

it.each(['f16', 'bf16', 'f32'] as const)('rounds to %s as writing and reading does', (dtype) => {
  const some = [...seededFloats(1, 4000, 1)];
  const sizes = [1, 1e3, 6e4, 1e-4, 2 ** -14, 3e-6, 2 ** -24, 2 ** -25, 1e-30, 1e-41];
  const ties = Array.from({ length: 4000 }, (_, i) => (i - 2000) / 2 ** (i % 40));
  const values = Float32Array.from([0, -0, ...ties, ...sizes.flatMap((size) => some.map((x) => x * size))]);
  const expected = values.map((x) => roundTo(dtype, x));
  roundInPlace(values, new Uint32Array(values.buffer), dtype);
  const unsigned = (list: Float32Array) => list.map((x) => (x === 0 ? 0 : x)); // f16 loses the sign of a zero here
  expect(unsigned(values)).toEqual(unsigned(expected));
});
