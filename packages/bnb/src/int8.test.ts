import {
  castFloat,
  dequantize,
  float32Tensor,
  hostTensor,
  memoryReader,
  quantizationError,
  quantize,
  roundTo,
  toFloat32,
} from '@lowbit/core';
import { quantizerConformance, seededFloats, seededTensor } from '@lowbit/testing';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HALF_ROUNDERS } from './half.ts';
import { int8 } from './int8.ts';

/** As the loop over a row does it. */
const roundToHalf = (x: number): number => {
  const rounder = HALF_ROUNDERS[new Uint32Array(Float32Array.of(x).buffer)[0]! >>> 23]!;
  return x + rounder - rounder;
};
const codesOf = (data: Uint8Array) => [...new Int8Array(data.buffer, data.byteOffset, data.length)];

describe('rounding to float16', () => {
  it('is that of core for numbers of every size', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 32 - 1 }), (bits) => {
        const x = new Float32Array(Uint32Array.of(bits).buffer)[0]!;
        if (Math.abs(x) >= 65520 || Number.isNaN(x)) return;
        expect(roundToHalf(x) + 0).toBe(roundTo('f16', x) + 0);
      }),
      { numRuns: 20_000 },
    );
    expect(HALF_ROUNDERS.length).toBe(512);
  });

  it('at ties, and where float16 ends', () => {
    for (const [x, expected] of [
      [1 + 2 ** -11, 1],
      [1 + 3 * 2 ** -11, 1 + 2 ** -9],
      [-1 - 2 ** -11, -1],
      [2 ** -25, 0],
      [3 * 2 ** -25, 2 ** -23],
      [2 ** -14 - 2 ** -25, 2 ** -14],
      [65519, 65504],
    ] as const) {
      expect(roundToHalf(x)).toBe(expected);
    }
    expect(roundToHalf(65520)).toBeGreaterThan(65504);
  });
});

describe('int8', () => {
  it('a zero row, and one that float16 flushes to zero', async () => {
    const q = await quantize(float32Tensor([3, 2], [0, -0, 1e-9, -1e-9, 1, -1]), int8());
    expect(codesOf(q.parts.codes!.data)).toEqual([0, 0, 0, 0, 127, -127]);
    expect([...toFloat32(q.parts.scale!)]).toEqual([0, 0, 1]);
  });

  it('a row with one huge weight', async () => {
    const q = await quantize(float32Tensor([1, 4], [65504, 1, 300, -65504]), int8());
    expect(codesOf(q.parts.codes!.data)).toEqual([127, 0, 1, -127]);
  });

  it('halves go to the even code', async () => {
    const q = await quantize(float32Tensor([1, 6], [127, 0.5, 1.5, 2.5, -0.5, -1.5]), int8());
    expect(codesOf(q.parts.codes!.data)).toEqual([127, 0, 2, 2, 0, -2]);
  });

  it('never -128, and within half a step of the float16 weight', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.float({ min: -9, max: 9, noNaN: true }), { minLength: 1, maxLength: 70 }), async (row) => {
        const q = await quantize(float32Tensor([1, row.length], row), int8());
        const largest = Math.max(...row.map((x) => Math.abs(roundTo('f16', x))));
        expect(toFloat32(q.parts.scale!)[0]).toBe(largest);
        expect(codesOf(q.parts.codes!.data).every((code) => code > -128)).toBe(true);
        const back = toFloat32(dequantize(q));
        for (const [i, x] of row.entries()) expect(Math.abs(roundTo('f16', x) - back[i]!)).toBeLessThanOrEqual((largest / 127) * 0.50001);
      }),
    );
  });

  it('reports the error against the weight itself, not its float16', async () => {
    const weight = seededTensor(5, [9, 31], 0.1);
    const quantizer = int8();
    const q = await quantize(weight, quantizer);
    const error = await quantizer.quantize(memoryReader('w', weight), q.format, { write: async () => {} }, { budget: 300 });
    const { mse, maxAbs } = quantizationError(weight, q);
    expect(error.maxAbs).toBe(maxAbs);
    expect(Math.abs(error.squaredError / 279 - mse)).toBeLessThan(1e-9 * mse);
  });

  it.each(['f32', 'f16', 'bf16'] as const)('and so of a large one, to some millionths: %s', async (dtype) => {
    const weight = castFloat(seededTensor(9, [200, 515], 0.1), dtype);
    const quantizer = int8();
    const q = await quantize(weight, quantizer);
    const error = await quantizer.quantize(memoryReader('w', weight), q.format, { write: async () => {} }, { budget: 1e6 });
    const { mse, maxAbs } = quantizationError(weight, q);
    expect(Math.abs(error.squaredError / 103_000 / mse - 1)).toBeLessThan(5e-6);
    expect(Math.abs(error.maxAbs / maxAbs - 1)).toBeLessThan(2 ** -14);
    expect(error.squaredWeight).toBeCloseTo(
      toFloat32(weight).reduce((sum, w) => sum + w * w, 0),
      9,
    );
  });

  it('the threshold is told to backends and changes no weight', async () => {
    const weight = seededTensor(6, [4, 40], 20);
    expect(int8({ threshold: 0 }).format([4, 40], 'f16')).toEqual({ kind: 'int8', threshold: 0 });
    expect((await quantize(weight, int8({ threshold: 0 }))).parts).toEqual((await quantize(weight, int8())).parts);
    expect(int8({ threshold: 3 }).config).toMatchObject({ load_in_8bit: true, load_in_4bit: false, llm_int8_threshold: 3 });
    expect(int8({ threshold: 3 }).identity).not.toBe(int8().identity);
  });

  it('refuses weights beyond float16, whatever their dtype', async () => {
    const bf16 = hostTensor('bf16', [2, 2], Uint16Array.of(0x3f80, 0x3f80, 0x3f80, 0x4780)); // 65536
    for (const weight of [bf16, float32Tensor([2, 2], [1, 1, -65520, 1])]) {
      await expect(quantize(weight, int8())).rejects.toMatchObject({ code: 'ERR_DTYPE_OVERFLOW', details: { row: 1 } });
    }
    await expect(quantize(float32Tensor([2, 2], [1, 1, -65519, 1]), int8())).resolves.toBeDefined();
  });

  it('a row that does not fit the budget', async () => {
    const reader = { ...memoryReader('w', float32Tensor([1, 1], [1])), shape: [1, 2 ** 20] as const };
    const attempt = int8().quantize(reader, { kind: 'int8', threshold: 6 }, { write: async () => {} }, { budget: 1 << 20 });
    await expect(attempt).rejects.toMatchObject({ code: 'ERR_LIMIT', hint: expect.stringMatching(/./) });
  });

  it('a large weight in pieces, as in one', async () => {
    const values = seededFloats(8, 300 * 2000, 0.1);
    const whole = await quantize(float32Tensor([300, 2000], values), int8());
    for (const row of [0, 130, 131, 299]) {
      const one = await quantize(float32Tensor([1, 2000], values.subarray(row * 2000, (row + 1) * 2000)), int8());
      expect(whole.parts.codes!.data.subarray(row * 2000, (row + 1) * 2000)).toEqual(one.parts.codes!.data);
      expect(toFloat32(whole.parts.scale!)[row]).toBe(toFloat32(one.parts.scale!)[0]);
    }
  });

  it.each([
    { treshold: 6 },
    null,
    { threshold: -1 },
    { threshold: Number.NaN },
    { threshold: '6' },
    { threshold: Number.POSITIVE_INFINITY },
  ])('refuses %j', (options) => {
    expect(() => int8(options as never)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', hint: expect.stringMatching(/./) }));
  });
});

quantizerConformance(
  int8(),
  { describe, it },
  {
    worstError: 0.02,
    shapes: [
      [64, 128],
      [40, 256],
      [7, 13],
      [1, 3],
      [300, 1000],
    ],
  },
);
