import { seededFloats } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { hadamard } from './hadamard.ts';

const SIZES = Array.from({ length: 13 }, (_, k) => 2 ** k);

/** As the definition says, one sum at a time. */
function literal(values: Float32Array): Float32Array {
  const x = values.slice();
  for (let h = 1; h < x.length; h *= 2) {
    const before = x.slice();
    for (let i = 0; i < x.length; i++) x[i] = i & h ? before[i - h]! - before[i]! : before[i]! + before[i + h]!;
  }
  return x;
}

function transformed(values: Float32Array): Float32Array {
  const x = values.slice();
  hadamard(x, 0, x.length);
  return x;
}

function parity(bits: number): number {
  let odd = 0;
  for (let rest = bits; rest > 0; rest &= rest - 1) odd ^= 1;
  return odd;
}

describe.each(SIZES)('%i values', (n) => {
  const values = seededFloats(n, n, 1);

  it('are the sums of the definition, bit for bit', () => expect(transformed(values)).toEqual(literal(values)));

  it('come back n times as large', () => {
    const twice = transformed(transformed(values));
    for (const [i, value] of values.entries()) expect(Math.abs(twice[i]! / n - value)).toBeLessThan(2e-6 * Math.sqrt(Math.log2(n) + 1));
  });

  it('keep their norm, but for sqrt(n)', () => {
    const norm = (x: Float32Array) => Math.sqrt(x.reduce((sum, value) => sum + value * value, 0));
    expect(norm(transformed(values)) / norm(values) / Math.sqrt(n)).toBeCloseTo(1, 6);
  });

  it('are multiplied with the Sylvester matrix', () => {
    for (const j of new Set([0, 1 % n, n >> 1, n - 1, (n * 5) >> 3])) {
      const unit = new Float32Array(n);
      unit[j] = 1;
      expect([...transformed(unit)]).toEqual(Array.from({ length: n }, (_, i) => (parity(i & j) ? -1 : 1)));
    }
  });
});

it('works on a part of an array', () => {
  const values = seededFloats(7, 96, 1);
  const part = values.slice();
  hadamard(part, 32, 32);
  expect([part.slice(0, 32), part.slice(32, 64), part.slice(64)]).toEqual([
    values.slice(0, 32),
    literal(values.slice(32, 64)),
    values.slice(64),
  ]);
});
