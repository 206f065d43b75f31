import { describe, expect, it } from 'vitest';
import type { Rope } from '../spec/program.ts';
import { ropeInForce } from './rope.ts';

const of = (rope: Rope, length: number) => {
  const { key, scale, frequencies } = ropeInForce(rope, length);
  return { key, scale, frequencies: frequencies() };
};

describe('ropeInForce', () => {
  it('gives fixed frequencies at any length', () => {
    const rope: Rope = { kind: 'fixed', frequencies: [0.5, 0.1], scale: 1.5 };
    expect(of(rope, 1)).toMatchObject({ scale: 1.5, frequencies: [0.5, 0.1] });
    expect(of(rope, 10_000)).toEqual(of(rope, 1));
  });

  it('gives the long ones beyond the original length', () => {
    const rope: Rope = { kind: 'long', short: [1], long: [0.25], original: 8, scale: 1.2 };
    expect(of(rope, 8)).toMatchObject({ scale: 1.2, frequencies: [1] });
    expect(of(rope, 9)).toMatchObject({ scale: 1.2, frequencies: [0.25] });
    expect(of(rope, 9).key).not.toBe(of(rope, 8).key);
  });

  it('stretches the base by the length reached', () => {
    const rope: Rope = { kind: 'dynamic', base: 100, dim: 4, factor: 2, original: 5 };
    expect(of(rope, 1)).toEqual(of(rope, 5));
    expect(of(rope, 5)).toMatchObject({ scale: 1, frequencies: [1, 0.1] });
    // Twice the length: growth 2 * 10 / 5 - 1 = 3, base 100 * 3 ** (4 / 2) = 900.
    expect(of(rope, 10).frequencies).toEqual([1, 900 ** -0.5]);
    expect(of(rope, 10).key).not.toBe(of(rope, 5).key);
  });
});
