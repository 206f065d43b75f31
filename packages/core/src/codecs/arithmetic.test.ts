import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { fromBf16, fromF16, roundTo } from '../dtype.ts';
import { hadamardBlocks } from './hadamard.ts';
import { roundBf16, roundF16, rounding } from './rounding.ts';

describe('rounding', () => {
  const word = new Uint32Array(1);
  const float = new Float32Array(word.buffer);
  const any = fc.integer({ min: 0, max: 0xffffffff }).map((u) => {
    word[0] = u;
    return float[0]!;
  });

  it('agrees with roundTo on any float', () => {
    fc.assert(
      fc.property(any, (value) => {
        expect(roundF16(value)).toBe(roundTo('f16', value));
        expect(roundBf16(value)).toBe(roundTo('bf16', value));
        expect(rounding('f32')(value)).toBe(value);
      }),
      { numRuns: 5000 },
    );
  });

  it('agrees with roundTo around every f16 value, its ties, and their neighbours', () => {
    for (let half = 0; half < 0x10000; half += 7) {
      const value = fromF16(half);
      if (Number.isNaN(value)) continue;
      const next = fromF16(half + 1);
      const tie = Number.isFinite(next) && (half & 0x8000) === ((half + 1) & 0x8000) ? (value + next) / 2 : value;
      for (const x of [value, tie, tie * (1 + 2 ** -23), tie * (1 - 2 ** -23)])
        expect(Object.is(roundF16(x), roundTo('f16', x)), `${x}`).toBe(true);
    }
  });

  it('agrees with roundTo at the ends of the ranges', () => {
    for (const x of [
      0,
      -0,
      65519.99,
      65520,
      -65520,
      2 ** -14,
      2 ** -14 - 2 ** -25,
      2 ** -25,
      2 ** -25 + 2 ** -40,
      -(2 ** -26),
      Infinity,
      -Infinity,
      NaN,
    ]) {
      expect(Object.is(roundF16(x), roundTo('f16', x)), `f16 ${x}`).toBe(true);
      expect(Object.is(roundBf16(x), roundTo('bf16', x)), `bf16 ${x}`).toBe(true);
    }
    expect(roundBf16(3.4e38)).toBe(roundTo('bf16', 3.4e38));
    expect(roundBf16(fromBf16(0x0001))).toBe(fromBf16(0x0001));
  });
});

describe('hadamardBlocks', () => {
  it('multiplies each block by H[i][j] = (-1)^popcount(i & j) / sqrt(n)', () => {
    const values = Float32Array.from({ length: 32 }, (_, i) => ((i * 37 + 11) % 29) - 14);
    for (const block of [1, 2, 4, 8, 16]) {
      const expected = values.map((_, f) => {
        const [start, i] = [f - (f % block), f % block];
        let sum = 0;
        for (let j = 0; j < block; j++) {
          const odd = (i & j).toString(2).replaceAll('0', '').length % 2;
          sum += (odd ? -1 : 1) * values[start + j]!;
        }
        return sum * (1 / Math.sqrt(block));
      });
      const actual = values.slice();
      hadamardBlocks(actual, block);
      expect(actual).toEqual(expected);
    }
  });

  it.each([0, 3, 12, 64, -2, 0.5])('refuses blocks of %d in 32 values', (block) => {
    expect(() => hadamardBlocks(new Float32Array(32), block)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
  });
});
