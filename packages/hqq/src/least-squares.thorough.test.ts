import {
  channelWeights,
  dequantize,
  elements,
  float32Tensor,
  type HostTensor,
  type Importance,
  isLowbitError,
  type Matrix,
  quantize,
  toFloat32,
} from '@lowbit/core';
import { quantizerConformance, seeded, seededFloats } from '@lowbit/testing';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { goldenTensors } from '../../../fixtures/golden.ts';
import { hqq } from './hqq.ts';
import { tileWeights, weighedTile } from './importance.ts';
import type { HqqBits, HqqOptions } from './options.ts';
import { servedRoutines } from './routines.ts';
import type { HqqSolver } from './solver-options.ts';
import { GroupSums } from './solvers/code-sums.ts';
import { tiling } from './tiles.ts';

const diagonal = (values: ArrayLike<number>): Importance => ({
  kind: 'diagonal',
  moments: float32Tensor([values.length], values),
  rows: 1,
});

/** Squared errors of a stored weight, each counted by the importance of its channel. */
async function squaredError(weight: HostTensor, options: HqqOptions, importance?: Importance, measure = importance): Promise<number> {
  const q = await quantize(weight, hqq(options), { importance, metaDtype: 'f16' });
  const numbers = toFloat32(dequantize(q));
  const moments = measure && toFloat32(measure.moments);
  return toFloat32(weight).reduce((sum, w, i) => sum + (moments?.[i % moments.length] ?? 1) * (w - numbers[i]!) ** 2, 0);
}

/** Bell-shaped weights with a few outliers. */
function bell(count: number, seed: number): Float32Array {
  const next = seeded(seed);
  const one = (): number => next() + next() + next() + next() - 2;
  return Float32Array.from({ length: count }, () => one() * (next() < 0.02 ? 0.1 : 0.03));
}

describe('errors of the tiny model', () => {
  const weights = [...goldenTensors('../../examples/tiny-llama/model.safetensors')].filter(([name]) => name.endsWith('_proj.weight'));
  it('has its 42 linears', () => expect(weights.length).toBe(42));

  // hqq's own are 0.0077, 0.0344, 0.188 and 0.0076: fixtures/golden/QUALITY.md
  it.each([
    { bits: 4, axis: 1, expected: 0.0068 },
    { bits: 3, axis: 1, expected: 0.0276 },
    { bits: 2, axis: 1, expected: 0.1024 },
    { bits: 4, axis: 0, expected: 0.0068 },
  ] as const)('%o', async ({ bits, axis, expected }) => {
    let [error, norm] = [0, 0];
    for (const [, weight] of weights) {
      error += await squaredError(weight, { bits, axis, solver: 'least-squares' });
      norm += toFloat32(weight).reduce((sum, w) => sum + w * w, 0);
    }
    expect(Math.abs(error / norm - expected)).toBeLessThanOrEqual(0.00005);
  });
});

describe('against hqq', () => {
  // Both end in local minima, so on a few groups with many levels hqq may be luckier. Where a weight's error is in effect that of one group (axis 0 with
  // one channel that outweighs the others), 9 of 20,000 weights were more than 2 % above hqq's, the worst 15 %: a sample, then, and the same one in every run.
  it('has a smaller error on the whole, weighted or not, and for no weight of the sample more than 2 % above', async () => {
    const ratios: number[] = [];
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          seed: fc.integer({ min: 1, max: 1e9 }),
          bits: fc.constantFrom<HqqBits>(8, 6, 5, 4, 3, 2, 1.58, 1),
          axis: fc.constantFrom(0 as const, 1 as const),
          groupSize: fc.constantFrom(8, 16, 32, 64),
          weighted: fc.boolean(),
          roundZero: fc.boolean(),
        }),
        async ({ seed, weighted, ...rest }) => {
          const weight = float32Tensor([32, 64], bell(2048, seed));
          const importance = weighted
            ? diagonal(Float32Array.from(seededFloats(seed, 64), (x) => Math.exp(4 * x)))
            : diagonal(new Float32Array(64).fill(1));
          const fitted = await squaredError(weight, { ...rest, solver: 'least-squares' }, importance);
          const original = await squaredError(weight, rest, undefined, importance);
          expect(fitted).toBeLessThanOrEqual(1.02 * original);
          ratios.push(fitted / original);
        },
      ),
      { numRuns: 300, seed: 1, examples: [[{ seed: 9, bits: 6, axis: 0, groupSize: 32, weighted: true, roundZero: true }]] },
    );
    expect(ratios.reduce((sum, ratio) => sum + ratio, 0) / ratios.length).toBeLessThan(0.9);
  });

  it('makes the same format', () => {
    for (const bits of [8, 4, 3, 1.58] as const) {
      expect(hqq({ bits, solver: 'least-squares' }).format([64, 64], 'f16')).toEqual(hqq({ bits }).format([64, 64], 'f16'));
    }
  });
});

describe('numbers are at most half a step off, between the ends of the grid', () => {
  const solvers: readonly HqqSolver[] = ['hqq', 'proximal-v2', 'least-squares'];
  it.each(solvers)('%s', async (solver) => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.float({ min: -4, max: 4, noNaN: true }), { minLength: 64, maxLength: 64 }),
        fc.constantFrom<HqqBits>(8, 5, 4, 3, 2, 1.58, 1),
        fc.constantFrom(0 as const, 1 as const),
        async (values, bits, axis) => {
          const weight = float32Tensor([4, 16], values);
          const q = await quantize(weight, hqq({ bits, groupSize: 8, axis, solver }));
          const [numbers, scale, zero] = [dequantize(q), q.parts.scale!, q.parts.zero!].map(toFloat32);
          const levels = q.format.kind === 'affine' ? q.format.levels : 0;
          for (const [i, w] of values.entries()) {
            const group = axis === 1 ? Math.floor(i / 8) : i % 8;
            const [s, z] = [scale![group]!, zero![group]!];
            const [lo, hi] = [-z * s, (levels - 1 - z) * s];
            const nearest = Math.min(Math.max(w, lo), hi);
            expect(Math.abs(nearest - numbers![i]!)).toBeLessThanOrEqual(s / 2 + 1e-5 * Math.max(1, Math.abs(w), s));
          }
        },
      ),
      { numRuns: 200 },
    );
  });
});

describe('importance', () => {
  const shape: Matrix = [24, 40];
  const weight = float32Tensor(shape, bell(24 * 40, 5));
  const moments = Float32Array.from(seededFloats(8, 40), (x) => Math.exp(5 * x));

  // 64 elements run across rows of 40; 40 do not; on axis 0 columns of the grouped matrix are strided through the weight
  it.each([
    { groupSize: 40, axis: 1 },
    { groupSize: 16, axis: 1 },
    { groupSize: 96, axis: 1 },
    { groupSize: 24, axis: 0 },
    { groupSize: 32, axis: 0 },
    { groupSize: 64, axis: 0 },
  ] as const)('meets the channel of each element: %o', async ({ groupSize, axis }) => {
    const options: HqqOptions = { bits: 3, groupSize, axis, solver: 'least-squares' };
    const format = hqq(options).format(shape, 'f32');
    if (format.kind !== 'affine') throw new Error('not affine');
    const t = tiling(format, shape);
    const fill = tileWeights(
      Float64Array.from({ length: 40 }, (_, i) => i),
      weighedTile(t, t.tiles[0]!),
    );
    const order = t.tiles[0]!.runs.flatMap(({ from, to }) => Array.from({ length: to - from }, (_, i) => from + i));
    const got = new Float64Array(groupSize);
    for (const [index, group] of order.entries()) {
      fill(index, got);
      const flat = (i: number): number => (axis === 1 ? group * groupSize + i : i * t.groups + group);
      expect([...got]).toEqual(Array.from({ length: groupSize }, (_, i) => flat(i) % 40));
    }
    if (axis === 0 && groupSize === 24) return; // each group is of one channel: nothing to weigh
    const importance = diagonal(moments);
    expect(await squaredError(weight, options, importance)).toBeLessThan(await squaredError(weight, options, undefined, importance));
  });

  it('is relative, and of a matrix the diagonal', async () => {
    const options: HqqOptions = { bits: 3, groupSize: 40, solver: 'least-squares' };
    const one = (importance?: Importance) => quantize(weight, hqq(options), { importance });
    const plain = await one();
    const weighted = await one(diagonal(moments));
    expect(weighted).not.toEqual(plain);
    expect(await one(diagonal(moments.map((m) => m * 1024)))).toEqual(weighted);
    const matrix = Float32Array.from({ length: 1600 }, (_, i) => (i % 41 === 0 ? moments[i / 41]! : -3));
    expect(await one({ kind: 'matrix', moments: float32Tensor([40, 40], matrix), rows: 1 })).toEqual(weighted);
    expect(await one(diagonal(new Float32Array(40)))).toEqual(plain);
    expect(await quantize(weight, hqq({ groupSize: 40 }), { importance: diagonal(moments) })).toEqual(
      await quantize(weight, hqq({ groupSize: 40 })),
    ); // hqq is the original, whatever is known
  });

  it('leaves every group a fit where channels were never used', async () => {
    const dead = diagonal(Float32Array.from({ length: 40 }, (_, i) => (i < 20 ? 0 : 1)));
    const options: HqqOptions = { bits: 4, groupSize: 20, solver: 'least-squares' };
    // Groups of dead channels alone are fitted as if nothing were known.
    expect(await quantize(weight, hqq(options), { importance: dead })).toEqual(await quantize(weight, hqq(options)));
    expect(channelWeights(dead, shape)![0]).toBe(1e-4);
    const mixed: HqqOptions = { ...options, groupSize: 40 };
    expect(await squaredError(weight, mixed, dead)).toBeLessThan(await squaredError(weight, mixed, undefined, dead));
  });

  it.each([
    [diagonal(new Float32Array(24)), 'importance of f32 [24] is not of a weight with 40 inputs'],
    [{ kind: 'matrix', moments: float32Tensor([40], moments), rows: 1 } as Importance, 'importance of f32 [40] is not'],
    [diagonal(Float32Array.from({ length: 40 }, (_, i) => 7 - i)), 'the importance of input 8 is -1'],
    [diagonal(new Float32Array(40).fill(Number.NaN)), 'the importance of input 0 is NaN'],
  ])('of something else is refused', async (importance, message) => {
    const rejected = await quantize(weight, hqq({ groupSize: 40, solver: 'least-squares' }), { importance }).catch((error) => error);
    expect(isLowbitError(rejected, 'ERR_BAD_ARGUMENT')).toBe(true);
    expect(rejected.message).toContain(message);
  });
});

describe('groups that have little to fit', () => {
  const one = async (values: number[], metaDtype: 'f32' | 'f16', bits: HqqBits = 4) => {
    const weight = float32Tensor([2, 8], [...values, ...values]);
    const q = await quantize(weight, hqq({ bits, groupSize: 8, solver: 'least-squares' }), { metaDtype });
    return [...toFloat32(dequantize(q)).subarray(0, 8)];
  };
  it.each([9, -9, 0.25, 0, 65504, -65504, 2 ** -24])('all %d', async (value) => {
    for (const dtype of ['f32', 'f16'] as const) expect(await one(new Array(8).fill(value), dtype)).toEqual(new Array(8).fill(value));
  });
  it('a range too small for f16 scales, far from zero', async () => {
    const values = Array.from({ length: 8 }, (_, i) => 100 + i * 1e-4);
    for (const value of await one(values, 'f16')) expect(Math.abs(value - 100)).toBeLessThan(0.05);
    for (const [i, value] of (await one(values, 'f32')).entries()) expect(Math.abs(value - values[i]!)).toBeLessThan(2e-5);
  });
  it('numbers that f16 does not hold, on a grid that it does', async () => {
    const values = Array.from({ length: 8 }, (_, i) => 66000 + i * 1000);
    for (const [i, value] of (await one(values, 'f16')).entries()) expect(Math.abs(value - values[i]!)).toBeLessThan(300);
    await expect(one(new Array(8).fill(70000), 'f16')).rejects.toMatchObject({ code: 'ERR_DTYPE_OVERFLOW' });
  });
  it.each<readonly [HqqBits, number]>([
    [4, 1e6],
    [2, 3e5],
    [1, 5e4],
    [8, 2e7],
  ])('%d bits: a range of +-%d, whose scales f16 does not hold, is refused as by hqq', async (bits, most) => {
    const weight = float32Tensor(
      [8, 8],
      Array.from({ length: 64 }, (_, i) => (i % 3 === 0 ? -most : most)),
    );
    for (const solver of ['least-squares', 'hqq'] as const) {
      await expect(quantize(weight, hqq({ bits, groupSize: 8, solver }), { metaDtype: 'f16' })).rejects.toMatchObject({
        code: 'ERR_DTYPE_OVERFLOW',
        message: expect.stringMatching(/^weight: a scale of \d+(\.\d+)? does not fit f16$/),
        hint: expect.stringContaining('range too wide'),
      });
    }
    const wide = await quantize(weight, hqq({ bits, groupSize: 8, solver: 'least-squares' }), { metaDtype: 'f32' });
    for (const value of toFloat32(dequantize(wide))) expect(Math.abs(Math.abs(value) / most - 1)).toBeLessThan(1e-6);
  });
  it('one outlier', async () => {
    expect((await one([0, 0, 0, 0, 0, 0, 0, 1000], 'f16')).map((x) => Math.round(x) + 0)).toEqual([0, 0, 0, 0, 0, 0, 0, 1000]);
  });
  it('3-bit words are filled up with zeros', async () => {
    const weight = float32Tensor([3, 16], bell(48, 2));
    const q = await quantize(weight, hqq({ bits: 3, groupSize: 16, solver: 'least-squares' }));
    expect(q.parts.codes!.shape).toEqual([1, 16]);
    for (const word of elements({ dtype: 'i32', data: q.parts.codes!.data })) expect(word & 0x1fffff).toBe(0); // seven lanes of no row
  });
});

describe('sums over codes', () => {
  it('are those of the elements, exactly, in order of size or not', () => {
    const spread = fc.double({ min: -1, max: 1, noNaN: true });
    fc.assert(
      fc.property(
        fc.array(fc.tuple(spread, fc.double({ min: 1e-7, max: 1e6, noNaN: true })), { minLength: 48, maxLength: 300 }),
        fc.array(fc.tuple(fc.double({ min: 1e-3, max: 3, noNaN: true }), spread), { minLength: 1, maxLength: 4 }),
        fc.integer({ min: 2, max: 16 }),
        fc.boolean(),
        (pairs, grids, levels, weighted) => {
          const sums = new GroupSums(pairs.length, levels);
          for (const [i, [value, weight]] of pairs.entries()) [sums.values[i], sums.weights[i]] = [value, weighted ? weight : 1];
          sums.roundValues(1);
          if (weighted) sums.roundWeights();
          const elements = Array.from(pairs, (_, i) => [sums.values[i]!, sums.weights[i]!] as const);
          // As whole numbers of any size.
          const whole = (x: number): bigint => BigInt(x * 2 ** 40);
          sums.prepare();
          for (const [s, b] of grids) {
            let [first, second, mixed] = [0n, 0n, 0n];
            for (const [v, w] of elements) {
              const x = v * (1 / s) + -b * (1 / s);
              const even = 2 * Math.round(x / 2);
              const code = Math.abs(x - even) <= 0.5 ? even : Math.round(x); // ties to even
              const q = BigInt(Math.min(Math.max(code, 0), levels - 1));
              first += whole(w) * q;
              second += whole(w) * q * q;
              mixed += BigInt(w) * whole(v) * q;
            }
            sums.at(s, b);
            expect([sums.first, sums.second, sums.mixed].map(whole)).toEqual([first, second, mixed]);
          }
        },
      ),
    );
  });
});

const runner = { describe, it };
const routines = servedRoutines();
const tried = [
  hqq({ bits: 4, solver: 'least-squares' }),
  hqq({ bits: 3, groupSize: 16, axis: 0, solver: 'least-squares' }),
  hqq({ bits: 2, groupSize: 16, solver: 'proximal-slow' }),
];
const more = [hqq({ bits: 4 }), hqq({ bits: 4, axis: 0 }), hqq({ bits: 4, groupSize: 32 }), hqq({ bits: 4, solver: 'proximal-v2' })];
for (const one of tried) quantizerConformance(one, runner, { routines, others: [...tried, ...more].filter((other) => other !== one) });
