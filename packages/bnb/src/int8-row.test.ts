import { castFloat, type DType, float32Tensor, roundTo, toFloat32 } from '@lowbit/core';
import { seededFloats } from '@lowbit/testing';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { noError } from './blocks.ts';
import { codesByRule, float32Of, INFINITY_BITS, largestBits, RowCoder, type Rows } from './int8-row.ts';

const MANY = 2 ** 20; // elements of a weight that is coded fast

function rowsOf(values: Float32Array): Rows {
  return { values, words: new Int32Array(values.buffer, values.byteOffset, values.length), codes: new Int8Array(values.length) };
}

/** Both ways of coding one row. */
function both(values: Float32Array, dtype: DType) {
  const largest = roundTo('f16', float32Of(largestBits(rowsOf(values).words, 0, values.length)));
  const [rule, fast] = [rowsOf(values), rowsOf(values)];
  const [expected, actual] = [noError(), noError()];
  codesByRule(rule, 0, values.length, largest, expected);
  new RowCoder(dtype, MANY).code(fast, 0, values.length, largest, actual);
  return { rule: rule.codes, fast: fast.codes, expected, actual };
}

/** Numbers as a tensor of `dtype` holds them. */
const stored = (values: Float32Array, dtype: DType): Float32Array =>
  toFloat32(castFloat(float32Tensor([1, values.length], values), dtype)).slice();

describe('rows of LLM.int8', () => {
  it.each(['f32', 'f16', 'bf16'] as const)('of %s weights of every size have the codes of the rule', (dtype) => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 9000 }), fc.nat(), fc.integer({ min: -26, max: 15 }), (count, seed, exponent) => {
        const { rule, fast } = both(stored(seededFloats(seed, count, 2 ** exponent), dtype), dtype);
        expect(fast.findIndex((code, i) => code !== rule[i])).toBe(-1);
      }),
      { numRuns: 150 },
    );
  });

  it.each(['f32', 'f16', 'bf16'] as const)('of %s weights at and beside the middles between codes, too', (dtype) => {
    fc.assert(
      fc.property(fc.float({ min: Math.fround(2 ** -24), max: 65000, noNaN: true }), fc.nat(), (size, seed) => {
        const largest = roundTo('f16', size);
        const nudges = seededFloats(seed, 256, 2 ** -9);
        const middles = Float32Array.from({ length: 256 }, (_, i) => ((i - 128 + 0.5) / 127) * largest * (1 + nudges[i]!));
        middles[255] = largest;
        for (const values of [middles, middles.map((value) => roundTo('f16', value))]) {
          const { rule, fast } = both(stored(values, dtype), dtype);
          expect([...fast]).toEqual([...rule]);
        }
      }),
      { numRuns: 300 },
    );
  });

  it('float16’s subnormals and zeros', () => {
    for (const values of [
      [0, -0, 0, 0, 0],
      [1e-9, -1e-9, 0, 1e-9],
      [2 ** -24, 1.4 * 2 ** -24, -1.49 * 2 ** -24, 0.6 * 2 ** -24, 2 ** -25],
      [3 * 2 ** -24, 2.4 * 2 ** -24, 2.6 * 2 ** -24, 2 ** -24, 2 ** -25, 2 ** -26],
    ]) {
      const { rule, fast } = both(Float32Array.from(values), 'f32');
      expect([...fast]).toEqual([...rule]);
    }
  });

  it.each(['f32', 'bf16'] as const)('have the error of the rule, %s', (dtype) => {
    for (const [seed, count] of [
      [1, 2 ** 16],
      [2, 50_001],
      [3, 2 ** 17 + 2],
    ] as const) {
      const { expected, actual } = both(stored(seededFloats(seed, count, 0.1), dtype), dtype);
      expect(Math.abs(actual.squaredError / expected.squaredError - 1)).toBeLessThan(1e-5);
      expect(Math.abs(actual.squaredWeight / expected.squaredWeight - 1)).toBeLessThan(1e-12);
      expect(Math.abs(actual.maxAbs / expected.maxAbs - 1)).toBeLessThan(2 ** -14);
    }
  });

  it('find their largest error without a weight near a middle', () => {
    const values = Float32Array.from({ length: 64 }, (_, i) => (i === 63 ? 1 : (i - 32 + (i === 5 ? 0.25 : 0)) / 127));
    const { expected, actual } = both(values, 'bf16');
    expect(actual.maxAbs).toBe(expected.maxAbs);
    expect(expected.maxAbs).toBeGreaterThan(0.2 / 127);
  });

  it('largest magnitudes by their bits, NaN the largest of all', () => {
    const cases = [[], [-3], [1, -2, 0.5], [1, 2, 3, -4, 5, -0], [1, Number.NaN, 2], [1, 2, 3, Number.POSITIVE_INFINITY, 7]];
    for (const values of cases) {
      const { words } = rowsOf(Float32Array.from([9, ...values, 9]));
      const bits = largestBits(words, 1, values.length + 1);
      expect(float32Of(bits)).toBe(Math.max(0, ...values.map(Math.abs)));
      expect(bits >= INFINITY_BITS).toBe(!values.every(Number.isFinite));
    }
  });
});
