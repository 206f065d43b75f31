// Codes that make up for one another's errors: that each is the best there is. e2e/feedback.test.ts has what is gained with a method.

import { seededFloats } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { factor } from './factor.ts';
import { codesOf, targetsOf } from './steps.ts';

/** Second moments f32 [n, n] of `rows` samples in which neighbouring channels go together. */
function moments(n: number, rows: number, seed: number): Float32Array {
  const own = seededFloats(seed, rows * n, 1);
  const sums = new Float64Array(n * n);
  const x = new Float64Array(n);
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < n; i++) x[i] = (1 + (i % 5)) * own[row * n + i]! + (i > 0 ? 0.8 * x[i - 1]! : 0);
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) sums[i * n + j]! += x[i]! * x[j]!;
  }
  return Float32Array.from(sums, (sum) => sum / rows);
}

/** e^T H e. */
function cost(e: ArrayLike<number>, matrix: Float32Array, n: number): number {
  let total = 0;
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) total += e[i]! * e[j]! * matrix[i * n + j]!;
  return total;
}

/** Least e^T H e where e[0 .. fixed) is given and the rest is any numbers, by steps along one after another until nothing moves. */
function leastCost(given: readonly number[], matrix: Float32Array, n: number): number {
  const e = [...given, ...new Array<number>(n - given.length).fill(0)];
  for (let round = 0; round < 2000; round++) {
    for (let i = given.length; i < n; i++) {
      let slope = 0;
      for (let j = 0; j < n; j++) slope += matrix[i * n + j]! * e[j]!;
      e[i]! -= slope / matrix[i * n + i]!;
    }
  }
  return cost(e, matrix, n);
}

describe('factor', () => {
  it('gives C and D with C D C^T the matrix', async () => {
    const n = 37;
    const matrix = moments(n, 100, 3);
    const { coupling, cost: own } = await factor(matrix, n);
    const c = (i: number, j: number): number => (i === j ? 1 : coupling[i * n + j]!);
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) {
        if (i > j) expect(coupling[i * n + j]).toBe(0);
        let sum = 0;
        for (let k = Math.max(i, j); k < n; k++) sum += c(i, k) * own[k]! * c(j, k);
        expect(Math.abs(sum - matrix[i * n + j]!)).toBeLessThan(1e-5 * Math.sqrt(matrix[i * n + i]! * matrix[j * n + j]!));
      }
    }
  });
});

it('factors and stops when it is told to on the way', async () => {
  const n = 1500; // seconds, if it does not
  const matrix = new Float32Array(n * n);
  for (let i = 0; i < n; i++) matrix[i * (n + 1)] = 1;
  const stop = new AbortController();
  const reason = new Error('stopped');
  setTimeout(() => stop.abort(reason), 0);
  await expect(factor(matrix, n, stop.signal)).rejects.toBe(reason);
});

describe('codes', () => {
  it('are each the best of all codes, if what comes after could be any number', async () => {
    const n = 6;
    const matrix = moments(n, 60, 5);
    const { coupling } = await factor(matrix, n);
    const weights = seededFloats(7, n, 1);
    const scale = Float32Array.of(0.7);
    const zero = Float32Array.of(1.5);
    const group = { from: 0, size: n };
    const targets = targetsOf(weights, new Float32Array(n), coupling, 1, group);
    expect(targets).toEqual(weights);
    const { codes, errors } = codesOf(targets, weights, scale, zero, coupling, group, 4);
    expect(new Set(codes).size).toBeGreaterThan(2);
    const earlier: number[] = [];
    for (let i = 0; i < n; i++) {
      const costs = [0, 1, 2, 3].map((q) => leastCost([...earlier, (q - zero[0]!) * scale[0]! - weights[i]!], matrix, n));
      expect(costs[codes[i]!]).toBeCloseTo(Math.min(...costs), 6);
      expect(errors[i]).toBeCloseTo(weights[i]! - (codes[i]! - zero[0]!) * scale[0]!, 6);
      earlier.push(-errors[i]!);
    }
  });

  it('are the same whether channels go in one group or in several', async () => {
    const [rows, n] = [3, 8];
    const { coupling } = await factor(moments(n, 60, 5), n);
    const weights = seededFloats(9, rows * n, 1);
    const [scale, zero] = [Float32Array.of(0.3, 0.4, 0.5), Float32Array.of(3, 4, 2.5)];
    const whole = codesOf(weights, weights, scale, zero, coupling, { from: 0, size: n }, 8);
    const errors = new Float32Array(rows * n);
    const codes = new Uint8Array(rows * n);
    for (const from of [0, 4]) {
      const group = { from, size: 4 };
      const found = codesOf(targetsOf(weights, errors, coupling, rows, group), weights, scale, zero, coupling, group, 8);
      for (let r = 0; r < rows; r++) {
        codes.set(found.codes.subarray(4 * r, 4 * r + 4), r * n + from);
        errors.set(found.errors.subarray(4 * r, 4 * r + 4), r * n + from);
      }
    }
    expect(codes).toEqual(whole.codes);
    expect(errors).toEqual(whole.errors);
  });
});
