import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { power } from './power.ts';

const positive = fc.float({ min: 2 ** -149, max: Math.fround(3.4e38), noNaN: true }).filter((x) => x > 0);

describe('power', () => {
  it('is what the engine has, to 2^-44', () => {
    fc.assert(
      fc.property(positive, fc.double({ min: -1, max: 1, noNaN: true }), (x, y) => {
        const [ours, theirs] = [power(x, y), x ** y];
        expect(Math.abs(ours / theirs - 1)).toBeLessThan(2 ** -44);
      }),
      { numRuns: 2000 },
    );
  });

  it('is exact where the result is a whole power of two', () => {
    expect(power(1, -0.3)).toBe(1);
    expect(power(4, -0.5)).toBe(0.5);
    expect(power(2 ** -149, -1)).toBe(2 ** 149);
    expect(power(0.25, -1)).toBe(4);
    expect(power(1024, 0.5)).toBe(32);
  });

  it('has the bits that native code has', () => {
    const bits = (x: number): string => Buffer.from(Float64Array.of(x).buffer).readBigUInt64LE().toString(16);
    expect(
      [power(0.1708, -0.3), power(52.982025146484375, -0.1), power(1.4e-45, -0.99), power(3.4e38, -0.7)].map(bits),
    ).toMatchInlineSnapshot(`
      [
        "3ffb3011d71ca096",
        "3fe583c9508e2e53",
        "4926ce43ee25fbac",
        "3a551fd893949d0c",
      ]
    `);
  });
});
