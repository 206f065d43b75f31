// The quantizer: what it promises of any weight, its edges, and what it refuses. Outputs of Python: goldens.test.ts.

import {
  bitsPerWeight,
  type Codebook,
  codecFor,
  dequantize,
  elements,
  float32Tensor,
  type HostTensor,
  type Matrix,
  memoryReader,
  memoryWriter,
  packing,
  type QuantizedTensor,
  quantizationError,
  quantize,
  storedColumns,
  toFloat32,
  transpose,
} from '@lowbit/core';
import { quantizerConformance, seeded, seededFloats } from '@lowbit/testing';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { goldenJson } from '../../../fixtures/golden.ts';
import { gridOf } from './grid.ts';
import { higgs } from './higgs.ts';
import type { HiggsOptions } from './options.ts';

quantizerConformance(
  higgs(),
  { describe, it },
  {
    shapes: [
      [128, 512],
      [40, 256],
      [7, 600],
    ],
  },
);
quantizerConformance(
  higgs({ bits: 3, p: 1, groupSize: 64, hadamardSize: 64 }),
  { describe, it },
  {
    shapes: [
      [512, 64],
      [5, 100],
    ],
  },
);
quantizerConformance(
  higgs({ bits: 2, hadamardSize: 128, groupSize: 128 }),
  { describe, it },
  {
    shapes: [
      [256, 128],
      [6, 1],
    ],
  },
);
quantizerConformance(higgs({ bits: 4, p: 1, packing: 'portable' }), { describe, it }, { shapes: [[128, 520]] });

/** Normal numbers of unit deviation. */
function normal(seed: number, count: number): Float32Array {
  const next = seeded(seed);
  return Float32Array.from({ length: count }, () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next()));
}

const tensor = (shape: Matrix, values: Float32Array): HostTensor => float32Tensor(shape, values);

function codesOf({ format, shape, parts }: QuantizedTensor): Uint8Array {
  const codebook = format as Codebook;
  return packing(codebook.packing).unpack(parts.codes!.data, shape[0], storedColumns(codebook, shape) / codebook.dim);
}

async function relativeError(weight: HostTensor, options: HiggsOptions): Promise<number> {
  const { mse } = quantizationError(weight, await quantize(weight, higgs(options), { metaDtype: 'f16' }));
  const values = toFloat32(weight);
  return (mse * values.length) / values.reduce((sum, w) => sum + w * w, 0);
}

const MSE = new Map(
  [
    [2, 1, 0.1174818],
    [3, 1, 0.0345478],
    [4, 1, 0.009501],
    [2, 2, 0.1075996],
    [3, 2, 0.0296062],
    [4, 2, 0.007751],
  ].map(([bits, p, mse]) => [`${bits}-${p}`, mse!] as const),
);
const KINDS = [2, 3, 4].flatMap((bits) => [1, 2].map((p) => ({ bits, p }) as { bits: 2 | 3 | 4; p: 1 | 2 }));

describe('numbers', () => {
  const sources: Readonly<Record<string, (x: () => number) => number>> = {
    normal: (u) => Math.sqrt(-2 * Math.log(1 - u())) * Math.cos(2 * Math.PI * u()),
    Laplace: (u) => Math.log(1 - u()) * (u() < 0.5 ? -1 : 1),
    'Student t, 3 degrees': (u) => {
      const z = () => Math.sqrt(-2 * Math.log(1 - u())) * Math.cos(2 * Math.PI * u());
      return z() / Math.sqrt((z() ** 2 + z() ** 2 + z() ** 2) / 3);
    },
    uniform: (u) => 2 * u() - 1,
  };
  for (const [name, source] of Object.entries(sources)) {
    it(`have the error of the grid, whatever the distribution: ${name}`, async () => {
      const next = seeded(name.length);
      const shape: Matrix = [64, 4096];
      const weight = tensor(
        shape,
        Float32Array.from({ length: shape[0] * shape[1] }, () => 0.02 * source(next)),
      );
      for (const { bits, p } of KINDS) {
        const ratio = (await relativeError(weight, { bits, p })) / MSE.get(`${bits}-${p}`)!;
        expect(Math.abs(ratio - 1)).toBeLessThan(p === 2 ? 0.03 : 0.04);
      }
      for (const bits of [2, 3, 4] as const)
        expect(await relativeError(weight, { bits })).toBeLessThan(await relativeError(weight, { bits, p: 1 }));
    });
  }

  it('depend on the group in the number of scales alone', async () => {
    const weight = tensor([6, 700], normal(3, 4200));
    const made = await Promise.all([2, 64, 256, 512].map((groupSize) => quantize(weight, higgs({ groupSize }), { metaDtype: 'bf16' })));
    for (const q of made) {
      expect(q.parts.codes!.data).toEqual(made[0]!.parts.codes!.data);
      expect(dequantize(q).data).toEqual(dequantize(made[0]!).data);
      const { group } = q.format as Codebook;
      const words = elements({ dtype: 'u16', data: q.parts.scale!.data });
      expect(words.length).toBe((6 * 1024) / group);
      expect(words.every((word, i) => word === words[i - (i % (512 / group))])).toBe(true);
    }
  });

  it('scale with a row, and mirror with it where the grid is symmetric', async () => {
    const row = normal(4, 512);
    const rows = Float32Array.from([...row, ...row.map((x) => 8 * x), ...row.map((x) => -x)]);
    for (const { bits, p } of KINDS) {
      const q = await quantize(tensor([3, 512], rows), higgs({ bits, p }));
      const codes = codesOf(q);
      const width = 512 / p;
      expect(codes.subarray(width, 2 * width)).toEqual(codes.subarray(0, width));
      const scales = toFloat32(q.parts.scale!);
      expect(scales[2]).toBe(8 * scales[0]!);
      expect(scales[4]).toBe(scales[0]);
      if (p === 1) expect(codes.subarray(2 * width)).toEqual(codes.subarray(0, width).map((code) => 2 ** bits - 1 - code));
    }
  });

  it('have scales that give the norms of blocks back', async () => {
    const values = normal(5, 3 * 512);
    const scales = toFloat32((await quantize(tensor([3, 512], values), higgs({ groupSize: 512 }), { metaDtype: 'f16' })).parts.scale!);
    for (let row = 0; row < 3; row++) {
      const norm = Math.hypot(...values.subarray(512 * row, 512 * row + 512));
      expect(Math.abs((scales[row]! * Math.sqrt(512)) / norm - 1)).toBeLessThan(2 ** -11);
    }
  });

  it.each([
    { bits: 2, p: 2, shape: [16, 512], mse: 0.1076 },
    { bits: 3, p: 1, shape: [16, 512], mse: 0.0345 },
    { bits: 2, p: 2, shape: [9, 600], mse: 0.1076 },
  ] as const)('are as long as the weights, seen from these, with unbiased scales: $bits bits, $shape', async ({ bits, p, shape, mse }) => {
    const weight = float32Tensor(shape, seededFloats(4, shape[0] * shape[1]));
    const options: HiggsOptions = { bits, p, hadamardSize: 128, groupSize: 128 };
    const [norm, unbiased] = [
      await quantize(weight, higgs(options), { metaDtype: 'f32' }),
      await quantize(weight, higgs({ ...options, scale: 'unbiased' }), { metaDtype: 'f32' }),
    ];
    expect(unbiased.format).toEqual(norm.format);
    expect(unbiased.parts.codes).toEqual(norm.parts.codes);
    const w = toFloat32(weight);
    const seen = (q: QuantizedTensor): number => {
      const got = toFloat32(dequantize(q));
      return w.reduce((sum, value, i) => sum + value * got[i]!, 0) / w.reduce((sum, value) => sum + value * value, 0);
    };
    expect(seen(norm)).toBeLessThan(1 - 0.8 * mse);
    // What falls on the filling of a short block is cut off, the rest is exact.
    expect(Math.abs(seen(unbiased) - 1)).toBeLessThan(shape[1] % 128 === 0 ? 1e-6 : 0.02);
    expect(quantizationError(weight, unbiased).mse).toBeGreaterThan(quantizationError(weight, norm).mse);
  });

  it('are what a product with rotated activations has', async () => {
    const weight = tensor([10, 300], normal(6, 3000));
    const q = await quantize(weight, higgs({ hadamardSize: 128, groupSize: 64 }));
    const w = toFloat32(dequantize(q));
    const x = normal(7, 300);
    // In the rotated basis: codes, scales, and x filled up and transformed by the matrix written out.
    const filled = Float64Array.from({ length: 384 }, (_, i) => x[i] ?? 0);
    const bits = (n: number): number => n.toString(2).replaceAll('0', '').length;
    const turned = filled.map((_, i) => {
      const first = i - (i % 128);
      let sum = 0;
      for (let j = 0; j < 128; j++) sum += filled[first + j]! * (bits((i % 128) & j) % 2 ? -1 : 1);
      return sum / Math.sqrt(128);
    });
    const [codes, points, scales] = [codesOf(q), toFloat32(q.parts.table!), toFloat32(q.parts.scale!)];
    for (let row = 0; row < 10; row++) {
      let there = 0;
      for (let k = 0; k < 384; k++) {
        const code = codes[row * 192 + (k >> 1)]!;
        there += points[2 * code + (k & 1)]! * scales[(row * 384 + k) >> 6]! * turned[k]!;
      }
      const here = w.subarray(300 * row, 300 * row + 300).reduce((sum, value, k) => sum + value * x[k]!, 0);
      expect(Math.abs(here - there)).toBeLessThan(1e-5);
    }
  });

  it('honestly leave out the error on what rows are filled up with', async () => {
    for (const inp of [130, 512, 515, 1023]) {
      const weight = tensor([4, inp], normal(inp, 4 * inp));
      const quantizer = higgs({ bits: 3 });
      const format = quantizer.format([4, inp], 'f16');
      const { writer, parts } = memoryWriter(codecFor(format).parts(format, [4, inp]));
      const reported = await quantizer.quantize(memoryReader('w', weight), format, writer, { budget: 1e9 });
      const { mse, maxAbs } = quantizationError(weight, { format, shape: [4, inp], parts });
      expect(reported.squaredError / (mse * 4 * inp)).toBeCloseTo(1, 5);
      expect(reported.maxAbs / maxAbs).toBeCloseTo(1, 5);
    }
  });
});

describe('edges', () => {
  it('zero rows and blocks have codes and scales of zero', async () => {
    const values = new Float32Array(3 * 1024);
    values.set(normal(8, 512), 1024 + 512);
    values[2 * 1024] = -0;
    const q = await quantize(tensor([3, 1024], values), higgs(), { metaDtype: 'bf16' });
    const codes = codesOf(q);
    expect([...codes.subarray(0, 512 + 256), ...codes.subarray(1024)].every((code) => code === 0)).toBe(true);
    expect([...toFloat32(q.parts.scale!)].map((scale) => scale === 0)).toEqual([
      ...Array(6).fill(true),
      false,
      false,
      ...Array(4).fill(true),
    ]);
    expect(toFloat32(dequantize(q)).filter((x) => x !== 0).length).toBeGreaterThan(500);
    expect(toFloat32(dequantize(q, { to: 1 })).every((x) => Object.is(Math.abs(x), 0))).toBe(true);
  });

  it('one number in a block becomes +-1 everywhere', async () => {
    const values = new Float32Array(2 * 512);
    values[3] = 0.25;
    values[512 + 511] = -1e-30;
    const q = await quantize(tensor([2, 512], values), higgs({ p: 1 }));
    const grid = gridOf(4, 1);
    const one = [...grid.points].findIndex((x) => Math.abs(x - 0.94234043) < 1e-6);
    expect(new Set(codesOf(q))).toEqual(new Set([one, 15 - one]));
    expect(toFloat32(q.parts.scale!)[0]).toBe(Math.fround(0.25 / Math.fround(Math.sqrt(512))));
  });

  it('scales underflow where 16 bits end, codes do not', async () => {
    const weight = tensor(
      [3, 512],
      Float32Array.from([1, 4e-6, 2e-9].flatMap((size) => [...normal(9, 512)].map((x) => (x * size) / 22.6))),
    );
    const q = await quantize(weight, higgs({ groupSize: 512 }), { metaDtype: 'f16' });
    const codes = codesOf(q);
    const [one, subnormal, none] = toFloat32(q.parts.scale!);
    expect(one).toBeGreaterThan(0.01);
    expect(subnormal! % 2 ** -24).toBe(0);
    expect(subnormal).toBeGreaterThan(0);
    expect(none).toBe(0);
    const alike = codes.subarray(0, 256).filter((code, i) => code === codes[256 + i] && code === codes[512 + i]);
    expect(alike.length).toBeGreaterThan(250);
  });

  it('refuses scales beyond the dtype, naming the row', async () => {
    const values = normal(10, 2 * 1024);
    values[1024 + 600] = 3e6;
    const weight = tensor([2, 1024], values);
    await expect(quantize(weight, higgs(), { metaDtype: 'f16' })).rejects.toMatchObject({
      code: 'ERR_DTYPE_OVERFLOW',
      details: { tensor: 'weight', row: 1, column: 512, dtype: 'f16' },
      hint: expect.stringContaining('bf16'),
    });
    await quantize(weight, higgs(), { metaDtype: 'bf16' });
    values[5] = 3e38;
    await expect(quantize(tensor([2, 1024], values), higgs(), { metaDtype: 'f32' })).rejects.toMatchObject({ code: 'ERR_DTYPE_OVERFLOW' });
  });

  it('takes weights that are stored as [in, out], turned', async () => {
    const weight = tensor([12, 70], normal(11, 840));
    const turned = transpose(transpose(weight));
    const [a, b] = await Promise.all([weight, turned].map((w) => quantize(w, higgs({ hadamardSize: 64, groupSize: 64 }))));
    expect(a!.parts.codes!.data).toEqual(b!.parts.codes!.data);
  });

  it('takes any shape, and the error is that of a good grid', async () => {
    const size = fc.integer({ min: 1, max: 300 });
    const options = fc.record({
      bits: fc.constantFrom<2 | 3 | 4>(2, 3, 4),
      p: fc.constantFrom<1 | 2>(1, 2),
      hadamardSize: fc.constantFrom(16, 64, 256),
      groupSize: fc.constantFrom(2, 16),
    });
    await fc.assert(
      fc.asyncProperty(size, size, options, fc.integer(), async (out, inp, made, seed) => {
        const weight = tensor([out, inp], seededFloats(seed, out * inp, 1));
        const q = await quantize(weight, higgs(made), { metaDtype: 'bf16' });
        const values = toFloat32(weight);
        const norm = values.reduce((sum, w) => sum + w * w, 0);
        expect((quantizationError(weight, q).mse * out * inp) / norm).toBeLessThan(0.45);
      }),
      { numRuns: 40 },
    );
  });
});

describe('formats', () => {
  const name = (options: HiggsOptions, shape: Matrix): string => (higgs(options).format(shape, 'f16') as Codebook).packing;

  it('are FLUTE where it fits, the portable one elsewhere', () => {
    expect(name({}, [128, 512])).toBe('flute4_p2_t32');
    expect(name({}, [64, 512])).toBe('row_bits8');
    expect(name({ p: 1 }, [384, 512])).toBe('flute4_p1_t32');
    expect([
      name({ bits: 2 }, [256, 64]),
      name({ bits: 2 }, [128, 64]),
      name({ bits: 3 }, [512, 64]),
      name({ bits: 3 }, [256, 64]),
    ]).toEqual(['flute2_p2_t32', 'row_bits4', 'flute3_p2_t32', 'row_bits6']);
    expect(name({ packing: 'portable', bits: 3, p: 1 }, [512, 64])).toBe('row_bits3');
    expect([name({ tile: 64 }, [256, 64]), name({ tile: 64 }, [128, 64])]).toEqual(['flute4_p2_t64', 'row_bits8']);
  });

  it('have the sizes of the specification', () => {
    for (const [bits, gs, size] of [
      [2, 256, 2.0625],
      [3, 128, 3.125],
      [4, 64, 4.25],
      [4, 256, 4.0625],
    ] as const) {
      const shape: Matrix = [4096, 4096];
      const table = (32 * 2 ** (2 * bits) * 2) / (4096 * 4096);
      expect(bitsPerWeight(higgs({ bits, groupSize: gs }).format(shape, 'f16'), shape)).toBeCloseTo(size + table, 10);
    }
  });

  it('refuse what FLUTE cannot pack with the rule and the way out', () => {
    expect(() => name({ packing: 'flute', bits: 3 }, [256, 512])).toThrow(
      expect.objectContaining({
        code: 'ERR_UNSUPPORTED_FORMAT',
        message: expect.stringMatching(/3-bit.*tiles of 512.*256/),
        hint: expect.stringMatching(/portable.*row_bits6/),
        details: expect.objectContaining({ multiple: 512 }),
      }),
    );
    expect(() => name({ packing: 'flute', tile: 64 }, [128, 512])).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED_FORMAT' }));
    expect(() => higgs().format([8, 8], 'i8')).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED_FORMAT' }));
  });

  it('of others are refused', async () => {
    const format: Codebook = { ...(higgs().format([4, 512], 'f32') as Codebook), packing: 'u8' };
    const { writer } = memoryWriter(codecFor(format).parts(format, [4, 512]));
    const reader = memoryReader('w', tensor([4, 512], new Float32Array(2048)));
    await expect(higgs().quantize(reader, format, writer, { budget: 1e9 })).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED_FORMAT' });
  });
});

describe('options', () => {
  it.each([
    [{ bits: 5 }, /bits cannot be 5/],
    [{ bits: '4' }, /bits cannot be "4"/],
    [{ p: 3 }, /p cannot be 3/],
    [{ hadamardSize: 768 }, /hadamardSize cannot be 768/],
    [{ hadamardSize: 65536 }, /hadamardSize cannot be 65536/],
    [{ hadamardSize: 128 }, /groupSize cannot be 256/],
    [{ groupSize: 1024 }, /groupSize cannot be 1024/],
    [{ groupSize: 96 }, /groupSize cannot be 96/],
    [{ groupSize: 1 }, /groupSize cannot be 1/],
    [{ groupSize: Number.NaN }, /groupSize cannot be null/],
    [{ packing: 'flat' }, /packing cannot be "flat"/],
    [{ tile: 16 }, /tile cannot be 16/],
    [{ group_size: 64 }, /there is no option group_size/],
    [null, /plain object/],
    [[], /plain object/],
  ])('%j is refused', (options, message) => {
    expect(() => higgs(options as HiggsOptions)).toThrow(
      expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', message: expect.stringMatching(message), hint: expect.any(String) }),
    );
  });

  it('say how scales are made, and runs of before have the identity that they had', () => {
    expect(higgs({ scale: 'unbiased' }).identity).not.toBe(higgs().identity);
    expect(higgs().identity).not.toContain('norm');
    expect(() => higgs({ scale: 'mean' as 'norm' })).toThrow(/scale cannot be "mean"/);
  });

  it('are in the config as transformers has them, and in the identity', () => {
    expect(higgs({ bits: 3, groupSize: 64 }).config).toEqual({
      bits: 3,
      p: 2,
      group_size: 64,
      hadamard_size: 512,
      modules_to_not_convert: null,
    });
    const identities = [
      {},
      { bits: 3 },
      { p: 1 },
      { groupSize: 64 },
      { hadamardSize: 1024 },
      { packing: 'portable' },
      { tile: 64 },
    ] as HiggsOptions[];
    expect(new Set(identities.map((options) => higgs(options).identity)).size).toBe(identities.length);
  });
});

interface Vector {
  readonly bits: 2 | 3 | 4;
  readonly p: 1 | 2;
  readonly tileP: 32 | 64;
  readonly out: number;
  readonly inn: number;
  readonly codes_row0: readonly number[];
  readonly codes_checksum: number;
  readonly scales_checksum: number;
  readonly weight_row0: readonly number[];
  readonly weight_checksum: number;
  readonly t2: number;
  readonly deq_row0: readonly number[];
}

describe('vectors of the specification', () => {
  const { cases } = goldenJson<{ cases: Vector[] }>('higgs/vectors.json');
  const checksum = (values: ArrayLike<number>): number => {
    let sum = 0;
    for (let i = 0; i < values.length; i++) sum = (sum + values[i]! * ((i % 251) + 1)) % 2 ** 32;
    return sum;
  };
  const generated = (count: number): Float32Array => {
    const next = seeded(12345);
    return Float32Array.from({ length: count }, () => (next() + next() + next() + next() - 2) * 0.04);
  };

  /** The definition in float64: codes, and by how much the best score is above the next. */
  const codes64 = (weights: Float32Array, { bits, p, out }: Vector) => {
    const { points, size } = gridOf(bits, p);
    const codes = new Uint8Array(weights.length / p);
    const gaps = new Float64Array(codes.length);
    for (let row = 0; row < out; row++) {
      const v = Float64Array.from(weights.subarray(512 * row, 512 * row + 512));
      const norm = Math.sqrt(v.reduce((sum, w) => sum + w * w, 0));
      for (let h = 1; h < 512; h *= 2) {
        for (let i = 0; i < 512; i++) {
          if (i & h) continue;
          const [a, b] = [v[i]!, v[i + h]!];
          v[i] = a + b;
          v[i + h] = a - b;
        }
      }
      for (let j = 0; j < 512 / p; j++) {
        let [best, most, next] = [0, Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY];
        for (let c = 0; c < size; c++) {
          let score = 0;
          for (let k = 0; k < p; k++) score += (2 * v[p * j + k]! * points[p * c + k]!) / norm - points[p * c + k]! ** 2;
          if (score > most) [best, most, next] = [c, score, most];
          else if (score > next) next = score;
        }
        codes[(512 / p) * row + j] = best;
        gaps[(512 / p) * row + j] = most - next;
      }
    }
    return { codes, gaps };
  };

  it('are all there', () => expect(cases.length).toBe(7));

  it.each(cases.map((c) => [`${c.bits} bits, p ${c.p}, tiles of ${c.tileP}`, c] as const))('%s', async (_, c) => {
    const weight = tensor([c.out, c.inn], generated(c.out * c.inn));
    expect(toFloat32(weight)[0]).toBeCloseTo(0.0235448146518, 9);
    const q = await quantize(weight, higgs({ bits: c.bits, p: c.p, tile: c.tileP }), { metaDtype: 'f16' });
    const codes = codesOf(q);
    expect([...codes.subarray(0, c.codes_row0.length)]).toEqual(c.codes_row0);
    expect(checksum(elements({ dtype: 'u16', data: q.parts.scale!.data }))).toBe(c.scales_checksum);
    const words = elements({ dtype: 'i16', data: q.parts.codes!.data });
    expect([...words.subarray(0, c.weight_row0.length)]).toEqual(c.weight_row0);
    // The checksums are those of float64, which may take another code at a near tie.
    const wide = codes64(toFloat32(weight), c);
    expect(checksum(wide.codes)).toBe(c.codes_checksum);
    const differing = [...codes.keys()].filter((i) => codes[i] !== wide.codes[i]);
    expect(differing.length).toBeLessThanOrEqual(1);
    for (const i of differing) expect(wide.gaps[i]).toBeLessThan(1e-6);
    const { name } = packing((q.format as Codebook).packing);
    const packed = packing(name).pack(wide.codes, c.out, c.inn / c.p);
    expect(checksum(elements({ dtype: 'u16', data: packed }))).toBe(c.weight_checksum);
    const norm = toFloat32(weight).reduce((sum, w) => sum + w * w, 0);
    expect((quantizationError(weight, q).mse * c.out * c.inn) / norm).toBeCloseTo(c.t2, 5);
    const w = toFloat32(dequantize(q, { to: 1 }));
    for (const [i, value] of c.deq_row0.entries()) expect(Math.abs(w[i]! - value)).toBeLessThan(2e-6);
  });
});
