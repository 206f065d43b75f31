import {
  dequantize,
  FP4_TABLE,
  float32Tensor,
  hostTensor,
  type Matrix,
  NF4_TABLE,
  quantizationError,
  quantize,
  toFloat32,
} from '@lowbit/core';
import { quantizerConformance, seededFloats, seededTensor } from '@lowbit/testing';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LEAST_ABSMAX } from './blocks.ts';
import { cellFinder } from './cells.ts';
import { NestedScales } from './double-quant.ts';
import { fp4, nf4 } from './four-bit.ts';
import { type Cells, FP4_CELLS, FP4_CUDA_CELLS, NF4_CELLS } from './tables.ts';

const fround = Math.fround;
const KINDS = { nf4, fp4 } as const;
const kinds = ['nf4', 'fp4'] as const;

/** A float32 and its two neighbours. */
function around(value: number): number[] {
  const bits = new Int32Array(Float32Array.of(value).buffer)[0]!;
  return [bits - 1, bits, bits + 1].map((b) => new Float32Array(Int32Array.of(b).buffer)[0]!);
}

describe.each([
  ['nf4', NF4_CELLS],
  ['fp4', FP4_CELLS],
  ['fp4 of CUDA', FP4_CUDA_CELLS],
] as [string, Cells][])('cells of %s', (_, cells) => {
  const { first, cuts } = cellFinder(cells);
  const find = (s: number) => first[(s * 512 + 512) | 0]! + (s > cuts[first[(s * 512 + 512) | 0]!]! ? 1 : 0);
  const count = (s: number) => cells.cuts.filter((cut) => cut < s).length;

  it('at every cut, bucket end, and next to them', () => {
    const points = [...cells.cuts, ...cells.values, ...Array.from({ length: 1025 }, (_, i) => (i - 512) / 512)].flatMap(around);
    for (const tiny of [0, -0, 1e-45, -1e-45, 1e-38, -1e-38, 1e-20, -1e-20, 1e-10, -1e-10]) points.push(fround(tiny));
    for (const s of points) if (Math.abs(s) <= 1.0000002) expect([s, find(s)]).toEqual([s, count(s)]);
  });

  it('anywhere', () => {
    const s = seededFloats(7, 200_000);
    for (const x of s) if (find(x) !== count(x)) expect([x, find(x)]).toEqual([x, count(x)]);
  });
});

describe('thresholds of CUDA', () => {
  const thresholds = [0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333].map(fround);
  const codes = [0, 1, 6, 7, 4, 5, 2, 3];
  /** The rule as it is written for the device. */
  const rule = (x: number) => codes[thresholds.filter((t) => t < Math.abs(x)).length]! + (x < 0 ? 8 : 0);
  const points = [...thresholds.flatMap(around), 0, -0, ...seededFloats(3, 61)].flatMap((x) => [x, -x]).map(fround);

  it.each([64, 1])('sign, then magnitude, a tie to the smaller (%i a row)', async (inp) => {
    const values = points.concat(Array.from({ length: (64 - ((points.length + 1) % 64)) % 64 }, () => 0));
    values.unshift(1); // absmax of the first block; others are scaled below
    const rows: number[] = [];
    for (let i = 0; i < values.length; i += 63)
      rows.push(1, ...values.slice(i, i + 63), ...new Array(Math.max(0, i + 63 - values.length)).fill(0));
    const q = await quantize(float32Tensor([rows.length / inp, inp], rows), fp4({ thresholds: 'cuda' }));
    const expected = rows.map(rule);
    expect([...q.parts.codes!.data].flatMap((byte) => [byte >> 4, byte & 15])).toEqual(expected);
  });
});

describe.each(kinds)('%s', (kind) => {
  const make = KINDS[kind];
  const table = kind === 'nf4' ? NF4_TABLE : FP4_TABLE;
  const zero = kind === 'nf4' ? 7 : 0;
  const codesOf = (data: Uint8Array) => [...data].flatMap((byte) => [byte >> 4, byte & 15]);

  it('decodes every nibble to its table entry', () => {
    const codes = Uint8Array.from({ length: 8 }, (_, i) => ((2 * i) << 4) | (2 * i + 1));
    const parts = { codes: hostTensor('u8', [8, 1], codes), table: float32Tensor([16, 1], table), scale: float32Tensor([1], [1]) };
    expect([...toFloat32(dequantize({ format: make().format([1, 16], 'f32'), shape: [1, 16], parts }))]).toEqual([...table]);
  });

  it('puts the first of two in the high nibble', async () => {
    const q = await quantize(float32Tensor([1, 2], [1, 0]), make());
    expect(codesOf(q.parts.codes!.data)).toEqual([kind === 'nf4' ? 15 : 3, zero]);
  });

  it.each([1, 2, 63, 64, 65, 127, 128])('%i weights', async (count) => {
    const values = seededFloats(count, count, 0.3);
    const q = await quantize(float32Tensor([1, count], values), make());
    const codes = codesOf(q.parts.codes!.data);
    expect(codes.length).toBe(count + (count % 2));
    if (count % 2 === 1) expect(codes.at(-1)).toBe(zero);
    const scales = toFloat32(q.parts.scale!);
    expect(scales.length).toBe(Math.ceil(count / 64));
    for (const [b, scale] of scales.entries()) expect(scale).toBe(Math.max(...values.subarray(64 * b, 64 * b + 64).map(Math.abs)));
    const back = toFloat32(dequantize(q));
    for (const [i, value] of back.entries()) expect(value).toBe(fround(table[codes[i]!]! * scales[Math.floor(i / 64)]!));
  });

  it('zeros: whole, among others, and in a short last block', async () => {
    const values = new Float32Array(64 * 3 + 10);
    values.set(seededFloats(1, 64), 64);
    const q = await quantize(float32Tensor([1, values.length], values), make());
    const scales = toFloat32(q.parts.scale!);
    expect([scales[0], scales[2], scales[3]]).toEqual([0, 0, LEAST_ABSMAX]);
    const codes = codesOf(q.parts.codes!.data);
    for (const i of [0, 63, 128, 191, 192, 201]) expect(codes[i]).toBe(zero);
    const back = toFloat32(dequantize(q));
    expect(back.filter((value, i) => value !== 0 && (i < 64 || i >= 128)).length).toBe(0);
  });

  it('a single weight that is not zero, and one value repeated', async () => {
    for (const value of [0.3, -0.3, 1e-38, 3e38]) {
      const single = new Float32Array(64);
      single[20] = value;
      expect([...toFloat32(dequantize(await quantize(float32Tensor([1, 64], single), make())))]).toEqual([...single]);
    }
    const constant = new Float32Array(128).fill(-0.7);
    expect(toFloat32(dequantize(await quantize(float32Tensor([2, 64], constant), make())))).toEqual(constant);
  });

  it.each([32, 64, 128, 256, 512, 1024, 2048, 4096])(
    'blocks of %i: within half the widest gap of the table, for any weights',
    async (blockSize) => {
      const sorted = [...table].sort((a, b) => a - b);
      const gap = Math.max(...sorted.slice(1).map((value, i) => value - sorted[i]!)) / 2;
      await fc.assert(
        fc.asyncProperty(
          fc.integer({ min: 1, max: 40 }),
          fc.integer({ min: 1, max: 300 }),
          fc.nat(),
          fc.boolean(),
          async (out, inp, seed, doubleQuant) => {
            const shape: Matrix = [out, inp];
            const weight = seededTensor(seed, shape, 0.2);
            const q = await quantize(weight, make({ blockSize, doubleQuant }));
            const values = toFloat32(weight);
            const back = toFloat32(dequantize(q));
            // Double quantization moves a magnitude by 0.7 % of the largest distance from the mean, at most 0.2.
            const slack = doubleQuant ? 0.2 * 0.0073 : 0;
            for (let from = 0; from < values.length; from += blockSize) {
              const block = values.subarray(from, from + blockSize);
              const largest = Math.max(...block.map(Math.abs));
              const worst = Math.max(...block.map((w, i) => Math.abs(w - back[from + i]!)));
              expect(worst).toBeLessThanOrEqual(largest * gap * 1.00001 + slack);
            }
          },
        ),
        { numRuns: 8 },
      );
    },
  );

  it.each(['f32', 'f16', 'bf16'] as const)('the same codes from %s as from its numbers in f32', async (dtype) => {
    const weight = hostTensor(
      dtype,
      [3, 70],
      dtype === 'f32'
        ? seededFloats(2, 210)
        : Uint16Array.from({ length: 210 }, (_, i) => (i * 257 + 3) & (dtype === 'f16' ? 0xbbff : 0xbf7f)),
    ); // subnormals among them
    const q = await quantize(weight, make());
    expect(q.parts).toEqual((await quantize(float32Tensor([3, 70], toFloat32(weight)), make())).parts);
  });

  it('reports the error of what was stored', async () => {
    const weight = seededTensor(9, [37, 53], 0.1);
    for (const doubleQuant of [false, true]) {
      const quantizer = make({ doubleQuant });
      const q = await quantize(weight, quantizer);
      const numbers = toFloat32(weight);
      const reader = {
        name: 'w',
        shape: [37, 53] as const,
        dtype: 'f32' as const,
        read: async (from: number, to: number, into: Float32Array, at = 0) => into.set(numbers.subarray(from, to), at),
      };
      const error = await quantizer.quantize(reader, q.format, { write: async () => {} }, { budget: 1000 });
      const { mse, maxAbs } = quantizationError(weight, q);
      expect(error.maxAbs).toBe(maxAbs);
      expect(Math.abs(error.squaredError / numbers.length - mse)).toBeLessThan(1e-9 * mse);
    }
  });
});

it('a short last block divides, a full one multiplies by the reciprocal: at a cut that can be another code', async () => {
  const pair = [0.008195312693715096, 0.00032609273330308497]; // the reciprocal of the first rounds up
  const short = await quantize(float32Tensor([1, 2], pair), nf4());
  const full = await quantize(float32Tensor([1, 64], [...pair, ...new Array<number>(62).fill(0)]), nf4());
  expect([short.parts.codes!.data[0], full.parts.codes!.data[0]]).toEqual([0xf7, 0xf8]);
});

describe('double quantization', () => {
  it('the last magnitudes divide if they are fewer than 256', () => {
    const absmax = Float32Array.of(0.008195312693715096, 0.0019719970878213644);
    const codes = (blocks: number) => {
      const made = new Uint8Array(2);
      new NestedScales(blocks, 0, Float32Array.of(absmax[1]!), Float32Array.of(absmax[0]!)).code(0, absmax, made, new Float32Array(2));
      return [...made];
    };
    expect(codes(2)).toEqual([255, 200]);
    expect(codes(256)).toEqual([255, 201]);
  });

  it.each([1, 255, 256, 257, 600])('%i blocks', async (blocks) => {
    const weight = seededTensor(blocks, [blocks, 32], 0.1);
    const plain = await quantize(weight, nf4({ blockSize: 32 }));
    const q = await quantize(weight, nf4({ blockSize: 32, doubleQuant: true }));
    expect(q.parts.codes).toEqual(plain.parts.codes); // codes follow the magnitudes as they were
    const scales = toFloat32(plain.parts.scale!);
    const offset = fround(scales.reduce((sum, scale) => sum + scale, 0) / blocks);
    expect([...toFloat32(q.parts['scale.offset']!)]).toEqual([offset]);
    const nested = toFloat32(q.parts['scale.scale']!);
    expect(nested.length).toBe(Math.ceil(blocks / 256));
    for (const [g, largest] of nested.entries()) {
      expect(largest).toBe(Math.max(...scales.subarray(256 * g, 256 * g + 256).map((scale) => Math.abs(fround(scale - offset)))));
    }
  });

  it('equal blocks give back the mean exactly', async () => {
    for (const blocks of [3, 256]) {
      const weight = float32Tensor([blocks, 64], new Float32Array(64 * blocks).fill(0.25));
      const q = await quantize(weight, nf4({ doubleQuant: true }));
      expect([...toFloat32(q.parts['scale.scale']!)]).toEqual([0]);
      expect(toFloat32(dequantize(q))).toEqual(toFloat32(weight));
    }
  });

  it('does not clamp: a zero block among large ones can come out with a magnitude below zero', async () => {
    const values = seededFloats(4, 64 * 20);
    values.fill(0, 64, 128);
    const q = await quantize(float32Tensor([20, 64], values), nf4({ doubleQuant: true }));
    expect(
      toFloat32(dequantize(q))
        .subarray(64, 128)
        .every((value) => value === 0),
    ).toBe(true); // its codes are all of 0
  });
});

describe('memory and aborting', () => {
  const weight = seededTensor(11, [700, 900], 0.1); // three pieces

  it.each([nf4(), nf4({ doubleQuant: true }), fp4({ blockSize: 4096, thresholds: 'cuda' })])(
    'same bytes for any budget',
    async (quantizer) => {
      const whole = await quantize(weight, quantizer);
      const numbers = toFloat32(weight);
      for (const budget of [10_000, 1 << 19, 1 << 21]) {
        let most = 0;
        const reader = {
          name: 'w',
          shape: [700, 900] as const,
          dtype: 'f32' as const,
          read: async (from: number, to: number, into: Float32Array, at = 0) => {
            most = Math.max(most, to - from);
            into.set(numbers.subarray(from, to), at);
          },
        };
        const parts = Object.fromEntries(Object.entries(whole.parts).map(([name, { data }]) => [name, new Uint8Array(data.length)]));
        const widths: Record<string, number> = { table: 4, scale: 4, 'scale.table': 4, 'scale.scale': 4, 'scale.offset': 4 };
        const write = async (part: string, at: number, data: Uint8Array) => parts[part]!.set(data, at * (widths[part] ?? 1));
        await quantizer.quantize(reader, whole.format, { write }, { budget });
        expect(5 * most).toBeLessThanOrEqual(Math.max(budget, 5 * 4096));
        for (const [name, { data }] of Object.entries(whole.parts)) expect(parts[name]).toEqual(data);
      }
    },
  );

  it('stops between pieces', async () => {
    const controller = new AbortController();
    let pieces = 0;
    const attempt = nf4().quantize(
      { name: 'w', shape: [700, 900], dtype: 'f32', read: async (_from, _to, into) => void into.fill(1) },
      nf4().format([700, 900], 'f32'),
      { write: async () => {} },
      { budget: 1 << 30, signal: controller.signal, onWeights: () => ++pieces === 2 && controller.abort(new Error('enough')) },
    );
    await expect(attempt).rejects.toThrow('enough');
    expect(pieces).toBe(2);
  });
});

describe('identity', () => {
  it('differs for every setting', () => {
    const made = [
      nf4(),
      nf4({ blockSize: 128 }),
      nf4({ doubleQuant: true }),
      nf4({ computeDtype: 'bf16' }),
      fp4(),
      fp4({ thresholds: 'cuda' }),
    ];
    expect(new Set(made.map(({ identity }) => identity)).size).toBe(made.length);
  });
});

describe('options', () => {
  it.each([
    ['nf4', { blocksize: 64 }],
    ['nf4', { thresholds: 'cuda' }],
    ['nf4', null],
    ['nf4', { blockSize: 16 }],
    ['nf4', { blockSize: 96 }],
    ['nf4', { doubleQuant: 'yes' }],
    ['nf4', { computeDtype: 'f64' }],
    ['nf4', { computeDtype: 'toString' }],
    ['fp4', { thresholds: 'gpu' }],
    ['fp4', { blockSize: '64' }],
  ] as const)('%s(%j) is refused', (kind, options) => {
    expect(() => KINDS[kind](options as never)).toThrow(
      expect.objectContaining({
        code: 'ERR_BAD_ARGUMENT',
        hint: expect.stringMatching(/./),
        message: expect.stringContaining(`${kind}: `),
      }),
    );
  });
});

for (const quantizer of [
  nf4(),
  nf4({ doubleQuant: true }),
  nf4({ blockSize: 4096 }),
  fp4(),
  fp4({ doubleQuant: true, thresholds: 'cuda' }),
]) {
  quantizerConformance(
    quantizer,
    { describe, it },
    {
      worstError: 0.3,
      shapes: [
        [64, 128],
        [40, 256],
        [7, 13],
        [1, 3],
        [300, 1000],
      ],
    },
  );
}
