// Mean absolute errors on the usual shapes of weights, as measured with the Python library (hqq 0.2.8) on samples of its own: min-max, then solved.

import { dequantize, float32Tensor, type Matrix, quantize, toFloat32 } from '@lowbit/core';
import { seeded } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { hqq } from './hqq.ts';
import type { HqqOptions } from './options.ts';

const SHAPE: Matrix = [512, 512];

function sample(draw: (next: () => number, normal: () => number) => number): Float32Array {
  const next = seeded(11);
  const normal = (): number => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
  return Float32Array.from({ length: SHAPE[0] * SHAPE[1] }, () => draw(next, normal));
}

const weights = {
  gaussian: sample((_, normal) => 0.02 * normal()),
  laplace: sample((next) => (next() < 0.5 ? 0.015 : -0.015) * Math.log(1 - next())),
  student: sample((_, normal) => (0.015 * normal()) / Math.sqrt((normal() ** 2 + normal() ** 2 + normal() ** 2) / 3)),
};

const COLUMNS: readonly HqqOptions[] = [{ bits: 4 }, { bits: 3 }, { bits: 2 }, { bits: 2, groupSize: 16 }, { bits: 1, groupSize: 8 }];
const TABLE: Readonly<Record<keyof typeof weights, readonly (readonly [none: number, solved: number])[]>> = {
  gaussian: [
    [0.0977, 0.0929],
    [0.203, 0.196],
    [0.477, 0.459],
    [0.325, 0.31],
    [0.769, 0.704],
  ],
  laplace: [
    [0.134, 0.128],
    [0.281, 0.27],
    [0.663, 0.585],
    [0.395, 0.371],
    [0.887, 0.738],
  ],
  student: [
    [0.161, 0.154],
    [0.338, 0.319],
    [0.793, 0.64],
    [0.422, 0.385],
    [0.853, 0.706],
  ],
};

async function relativeError(values: Float32Array, options: HqqOptions): Promise<number> {
  const numbers = toFloat32(dequantize(await quantize(float32Tensor(SHAPE, values), hqq(options))));
  let [error, size] = [0, 0];
  for (const [i, w] of values.entries()) {
    error += Math.abs(w - numbers[i]!);
    size += Math.abs(w);
  }
  return error / size;
}

describe.each(['gaussian', 'laplace', 'student'] as const)('%s', (name) => {
  it.each(COLUMNS.map((options, i) => [options, ...TABLE[name][i]!] as const))('%o: %d, solved %d', async (options, none, solved) => {
    expect(Math.abs((await relativeError(weights[name], { ...options, optimize: false })) / none - 1)).toBeLessThan(0.02);
    expect(Math.abs((await relativeError(weights[name], options)) / solved - 1)).toBeLessThan(0.02);
    const fitted = await relativeError(weights[name], { ...options, solver: 'least-squares' });
    expect(fitted / solved).toBeLessThan(1); // though it minimises squares
  });
});
