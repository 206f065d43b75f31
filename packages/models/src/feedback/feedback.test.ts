// Codes that make up for one another's errors: that each is the best there is. e2e/feedback.test.ts has what is gained with a method.

import { roundTo } from '@lowbit/core';
import { seededFloats } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { descend } from './descent.ts';
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

describe('descent', () => {
  const [rows, n, size, levels] = [4, 12, 4, 4];
  const groups = n / size;
  const matrix = moments(n, 60, 11);
  const own = Float32Array.from({ length: n }, (_, i) => 1.25 * matrix[i * (n + 1)]!);
  const costs = matrix.map((moment, i) => (i % (n + 1) === 0 ? own[i / (n + 1)]! : moment));
  const weights = seededFloats(13, rows * n, 1);
  const options = { size, levels, sweeps: 100, scaleDtype: 'f16', zeroDtype: 'f16' } as const;
  const start = () => ({
    codes: Uint8Array.from(weights, (weight) => Math.min(levels - 1, Math.max(0, Math.round(weight / 0.6 + 1.5)))),
    scale: new Float32Array(rows * groups).fill(0.6),
    zero: new Float32Array(rows * groups).fill(1.5),
  });
  type State = ReturnType<typeof start>;
  const stored = ({ codes, scale, zero }: State, at: number): number => {
    const group = Math.floor(at / size);
    return (codes[at]! - zero[group]!) * scale[group]!;
  };
  const costOf = (state: State, row: number): number =>
    cost(
      Array.from({ length: n }, (_, i) => weights[row * n + i]! - stored(state, row * n + i)),
      costs,
      n,
    );

  it('ends where no code and no grid is better beside all others', async () => {
    const state = start();
    const errors = await descend(weights, { moments: matrix, own }, state, options);
    for (let row = 0; row < rows; row++) {
      const found = costOf(state, row);
      expect(found).toBeLessThan(0.8 * costOf(start(), row));
      for (let at = row * n; at < (row + 1) * n; at++) {
        expect(errors[at]).toBeCloseTo(weights[at]! - stored(state, at), 6);
        for (let level = 0; level < levels; level++) {
          const other = { ...state, codes: state.codes.with(at, level) };
          expect(costOf(other, row)).toBeGreaterThanOrEqual(found * (1 - 1e-6));
        }
      }
      for (let group = row * groups; group < (row + 1) * groups; group++) {
        for (const [scaleBy, zeroBy] of [
          [0.99, 0],
          [1.01, 0],
          [1, -0.02],
          [1, 0.02],
          [0.99, 0.02],
          [1.01, -0.02],
        ] as const) {
          const other = {
            ...state,
            scale: state.scale.with(group, state.scale[group]! * scaleBy),
            zero: state.zero.with(group, state.zero[group]! + zeroBy),
          };
          expect(costOf(other, row)).toBeGreaterThan(found * (1 - 1e-4));
        }
      }
    }
  });

  it('stores scales and zeros as they will be, and rows do not look at one another', async () => {
    const state = start();
    await descend(weights, { moments: matrix, own }, state, options);
    for (const value of [...state.scale, ...state.zero]) expect(roundTo('f16', value)).toBe(value);
    const last = start();
    const alone = { codes: last.codes.slice(-n), scale: last.scale.slice(-groups), zero: last.zero.slice(-groups) };
    await descend(weights.slice(-n), { moments: matrix, own }, alone, options);
    expect(alone).toEqual({ codes: state.codes.slice(-n), scale: state.scale.slice(-groups), zero: state.zero.slice(-groups) });
  });

  it('leaves codes and grids that it can say nothing of: sums that run over, and groups of one level', async () => {
    const state = start();
    await descend(weights, { moments: matrix.map(() => Number.POSITIVE_INFINITY), own }, state, options);
    expect(state).toEqual(start());
    const level = { codes: new Uint8Array(n), scale: new Float32Array(groups).fill(1), zero: new Float32Array(groups) };
    const flat = await descend(new Float32Array(n), { moments: matrix, own }, level, options);
    expect(flat).toEqual(new Float32Array(n));
    expect(level.scale).toEqual(new Float32Array(groups).fill(1));
  });

  it('stops when it is told to', async () => {
    const signal = AbortSignal.abort();
    await expect(descend(weights, { moments: matrix, own }, start(), options, signal)).rejects.toBe(signal.reason);
  });
});
