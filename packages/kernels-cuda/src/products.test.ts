// Fast products on more numbers than the conformance kit has: what goes wrong for one block of activations in hundreds shows here.
import {
  type Backend,
  dequantize,
  type Format,
  NF4_TABLE,
  type QuantizedTensor,
  referenceBackend,
  toFloat32,
  writeFloat32,
} from '@lowbit/core';
import { sampleWeight, seeded, seededTensor } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../../../fixtures/fake-cuda.ts';
import { needs } from '../../../fixtures/needs.ts';
import { cuda } from './cuda.ts';

const affine = { kind: 'affine', levels: 16, group: 64, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' } as const;
/** Codes of so many bits for `dim` numbers each, in the rotated basis. */
const higgs = (bits: number, dim: 1 | 2, scale: 'f32' | 'f16' | 'bf16'): Format => ({
  ...{ kind: 'codebook', bits: bits / dim, dim, group: 64, table: 't', scale, packing: bits === 8 ? 'u8' : `row_bits${bits}` },
  rotate: { kind: 'hadamard', block: 64 },
});
const nf4 = { kind: 'codebook', bits: 4, dim: 1, group: 64, table: 'nf4', scale: 'f32', packing: 'bnb_nibble' } as const;

function weightOf(format: Format, shape: readonly [number, number]): QuantizedTensor {
  const weight = sampleWeight(format, shape);
  if (format !== nf4) return weight;
  const table = { ...weight.parts.table!, data: writeFloat32('f32', Float32Array.from(NF4_TABLE)) };
  return { ...weight, parts: { ...weight.parts, table } };
}

async function product(backend: Backend, format: Format, shape: readonly [number, number], x: Float32Array): Promise<Float32Array> {
  using linear = await backend.prepare(weightOf(format, shape));
  const rows = x.length / shape[1];
  const input = backend.alloc({ dtype: 'f32', shape: [rows, shape[1]] });
  const output = backend.alloc({ dtype: 'f32', shape: [rows, shape[0]] });
  backend.write(input, writeFloat32('f32', x));
  linear.forward(input, output);
  return toFloat32(await backend.read(output)).slice();
}

/** Formats, shapes with tails in every direction, and how far from the reference beside each row's largest. */
const TILED: readonly (readonly [string, Format, readonly [number, number], number?])[] = [
  ['8 bits', { ...affine, levels: 256, packing: '8bit_u8' }, [136, 320]],
  ['6 bits', { ...affine, levels: 64, packing: '8bit_u8' }, [24, 128]],
  ['5 bits', { ...affine, levels: 32, packing: '8bit_u8' }, [24, 128]],
  ['4 bits', affine, [200, 192]],
  ['4 bits around zero', { ...affine, zero: 'none' }, [24, 128]],
  ['4 bits, the inputs in two parts', affine, [40, 576]],
  ['3 bits, groups of 128', { ...affine, levels: 8, group: 128, packing: '3bit_32' }, [70, 256]],
  ['2 bits', { ...affine, levels: 4, packing: '2bit_u8' }, [24, 128]],
  ['1 bit', { ...affine, levels: 2, packing: '1bit_u8' }, [24, 128]],
  ['groups of 32', { ...affine, group: 32 }, [24, 96]],
  ['nf4', nf4, [130, 128], 2e-5],
  ['groups along columns', { ...affine, axis: 0 }, [64, 72]],
  ['pairs of 4 bits, rotated', higgs(8, 2, 'f16'), [33, 192]],
  ['pairs of 3 bits, rotated', higgs(6, 2, 'bf16'), [24, 128]],
  ['pairs of 2 bits, rotated', higgs(4, 2, 'f32'), [24, 128]],
  ['single codes of 4 bits, rotated', higgs(4, 1, 'f16'), [24, 128]],
  ['single codes of 3 bits, rotated', higgs(3, 1, 'f16'), [24, 128]],
  ['single codes of 2 bits, rotated', higgs(2, 1, 'f16'), [24, 128]],
  ['single codes of 8 bits', { kind: 'codebook', bits: 8, dim: 1, group: 64, table: 't', scale: 'f32', packing: 'u8' }, [24, 128]],
  ['dense f32', { kind: 'dense', dtype: 'f32' }, [24, 72]],
  ['dense f16', { kind: 'dense', dtype: 'f16' }, [24, 96]],
  ['dense bf16', { kind: 'dense', dtype: 'bf16' }, [135, 160]],
  ['dense bf16, inputs that fill no run', { kind: 'dense', dtype: 'bf16' }, [24, 88]],
];

describe('fast products', () => {
  it.for<readonly [string, Format, number]>([
    ['affine', affine, 0],
    // Numbers of its table are off by 2^-16.9, times a scale of up to 0.24.
    ['nf4', nf4, 0.24 * 2 ** -16.9],
  ])('%s: one and two rows of 2,048 inputs, large and small activations', async ([, format, perInput], context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    pretend();
    await using backend = await cuda({ driver: FAKE_DRIVER }).open();
    await using reference = await referenceBackend().open();
    const shape = [9, 2048] as const;
    for (let seed = 1; seed <= 12; seed++) {
      const rows = 1 + (seed % 2);
      const next = seeded(seed);
      // Blocks of very different sizes, zeros among them.
      const x = toFloat32(seededTensor(seed, [rows, 2048], 1)).map(
        (value, i) => value * (i % 7 === 0 ? 0 : 10 ** Math.floor(4 * next() - 2)),
      );
      const [got, expected] = [await product(backend, format, shape, x), await product(reference, format, shape, x)];
      const largest = Math.max(...expected.map(Math.abs));
      for (const [i, value] of expected.entries()) {
        const row = Math.floor(i / 9);
        const sum = x.subarray(2048 * row, 2048 * (row + 1)).reduce((total, one) => total + Math.abs(one), 0);
        expect(Math.abs(got[i]! - value), `seed ${seed}, ${i}`).toBeLessThan(perInput * sum + 2e-6 * largest);
      }
    }
  });

  it.for<readonly [string, Format]>([
    ['8 bits', { ...affine, levels: 256, packing: '8bit_u8' }],
    ['6 bits', { ...affine, levels: 64, packing: '8bit_u8' }],
    ['5 bits', { ...affine, levels: 32, packing: '8bit_u8' }],
    ['4 bits', affine],
    ['4 bits around zero', { ...affine, zero: 'none' }],
    ['3 bits', { ...affine, levels: 8, packing: '3bit_32' }],
    ['2 bits', { ...affine, levels: 4, packing: '2bit_u8' }],
    ['1 bit', { ...affine, levels: 2, packing: '1bit_u8' }],
    ['nf4', nf4],
    ['groups along columns', { ...affine, axis: 0 }],
    ['pairs of 4 bits, rotated', higgs(8, 2, 'f16')],
    ['pairs of 3 bits, rotated', higgs(6, 2, 'bf16')],
    ['pairs of 2 bits, rotated', higgs(4, 2, 'f32')],
    ['single codes of 4 bits, rotated', higgs(4, 1, 'f16')],
    ['single codes of 3 bits, rotated', higgs(3, 1, 'f16')],
    ['single codes of 2 bits, rotated', higgs(2, 1, 'f16')],
    ['single codes of 8 bits', { kind: 'codebook', bits: 8, dim: 1, group: 64, table: 't', scale: 'f32', packing: 'u8' }],
    ['dense f32', { kind: 'dense', dtype: 'f32' }],
    ['dense f16', { kind: 'dense', dtype: 'f16' }],
    ['dense bf16', { kind: 'dense', dtype: 'bf16' }],
  ])(
    'on tensor cores, %s: the bytes of a row are the same whatever the rows beside it',
    { timeout: 60_000 },
    async ([name, format], context) => {
      needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
      pretend();
      await using backend = await cuda({ driver: FAKE_DRIVER }).open();
      await using reference = await referenceBackend().open();
      const shape = [24, 320] as const;
      const x = toFloat32(seededTensor(5, [45, 320], 1)).map((value, i) => value * (i % 11 === 0 ? 30 : 1));
      const expected = await product(reference, format, shape, x);
      const got = await product(backend, format, shape, x);
      const largest = Math.max(...expected.map(Math.abs));
      for (const [i, value] of expected.entries()) {
        expect(Math.abs(got[i]! - value), `${i}`).toBeLessThan((name === 'nf4' ? 2e-5 : 2e-6) * largest);
      }
      for (const rows of [1, 2]) {
        const few = await product(backend, format, shape, x.subarray(0, 320 * rows));
        for (const [i, value] of few.entries())
          expect(Math.abs(value - expected[i]!)).toBeLessThan((name === 'nf4' ? 2e-5 : 2e-6) * largest);
      }
      for (const [from, to] of [
        [0, 3],
        [5, 14],
        [12, 45],
      ] as const) {
        const part = await product(backend, format, shape, x.subarray(320 * from, 320 * to));
        expect(part).toEqual(got.subarray(24 * from, 24 * to));
      }
    },
  );

  it.for(TILED)(
    'in tiles, %s: near the reference, and the bytes of a row are the same whatever the rows beside it',
    { timeout: 120_000 },
    async ([, format, shape, tolerance = 2e-6], context) => {
      needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
      pretend();
      await using backend = await cuda({ driver: FAKE_DRIVER }).open();
      await using reference = await referenceBackend().open();
      const [out, inp] = shape;
      const next = seeded(5);
      const x = toFloat32(seededTensor(5, [131, inp], 1)).map((value) => value * 10 ** Math.floor(3 * next() - 1));
      const expected = await product(reference, format, shape, x);
      const got = await product(backend, format, shape, x);
      let worst = 0;
      for (let row = 0; row < 131; row++) {
        const mine = expected.subarray(out * row, out * (row + 1));
        const largest = Math.max(...mine.map(Math.abs));
        for (const [i, value] of mine.entries()) worst = Math.max(worst, Math.abs(got[out * row + i]! - value) / largest);
      }
      expect(worst).toBeLessThan(tolerance);
      const part = await product(backend, format, shape, x.subarray(inp * 66));
      expect(part).toEqual(got.subarray(out * 66));
    },
  );

  // A format of each kernel, with tails in every direction.
  const onePlane = ['8 bits', '4 bits', '4 bits, the inputs in two parts', '2 bits', 'groups of 32', 'nf4', 'groups along columns'];
  const rotated = ['pairs of 4 bits, rotated', 'single codes of 3 bits, rotated'];
  const dense = ['dense f32', 'dense bf16, inputs that fill no run', 'dense f16'];
  it.for(TILED.filter(([name]) => [...onePlane, ...rotated, ...dense].includes(name)))(
    'in tiles of one plane, %s: off by half a step of the largest of each 64 at most, and the bytes of a row are the same whatever the rows beside it',
    { timeout: 120_000 },
    async ([name, format, shape, tolerance = 2e-6], context) => {
      needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
      pretend();
      await using backend = await cuda({ driver: FAKE_DRIVER, precision: 'fast' }).open();
      await using reference = await referenceBackend().open();
      const [out, inp] = shape;
      const next = seeded(5);
      const x = toFloat32(seededTensor(5, [131, inp], 1)).map((value) => value * 10 ** Math.floor(3 * next() - 1));
      const expected = await product(reference, format, shape, x);
      const got = await product(backend, format, shape, x);
      await using other = await cuda({ driver: FAKE_DRIVER }).open();
      const exact = await product(other, format, shape, x);
      const weight = toFloat32(dequantize(weightOf(format, shape)));
      let [worst, worstOfBound, differs] = [0, 0, 0];
      for (let row = 0; row < 131; row++) {
        const mine = expected.subarray(out * row, out * (row + 1));
        const largest = Math.max(...mine.map(Math.abs));
        for (const [i, value] of mine.entries()) {
          const off = Math.abs(got[out * row + i]! - value);
          worst = Math.max(worst, off / largest);
          differs += got[out * row + i] === exact[out * row + i] ? 0 : 1;
          let bound = tolerance * largest;
          for (let from = 0; from < inp; from += 64) {
            const to = Math.min(inp, from + 64);
            const most = Math.max(...x.subarray(inp * row + from, inp * row + to).map(Math.abs));
            for (let k = from; k < to; k++) bound += (most / 4094) * Math.abs(weight[inp * i + k]!);
          }
          worstOfBound = Math.max(worstOfBound, off / bound);
        }
      }
      // Weights that are rotated meet activations that are: the bound is of others.
      if (!rotated.includes(name)) expect(worstOfBound).toBeLessThan(1);
      expect(worst).toBeLessThan(rotated.includes(name) ? 2e-3 : 1e-3);
      expect(differs / got.length).toBeGreaterThan(0.9); // it is another way
      const part = await product(backend, format, shape, x.subarray(inp * 66));
      expect(part).toEqual(got.subarray(out * 66));
      // Fewer rows go the exact way.
      const few = x.subarray(0, 64 * inp);
      expect(await product(backend, format, shape, few)).toEqual(await product(other, format, shape, few));
    },
  );

  it('LLM.int8 in tiles: the bytes of rows that run otherwise', async (context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    pretend();
    await using backend = await cuda({ driver: FAKE_DRIVER }).open();
    // Inputs that fill words of 16 bytes and that do not, two tiles of rows and one, and more outliers than are taken at once.
    for (const [shape, outliers] of [
      [[136, 288], 0],
      [[40, 132], 3],
      [[40, 160], 40],
    ] as const) {
      const [out, inp] = shape;
      const x = toFloat32(seededTensor(3, [140, inp], 1)).map((value, i) => value * (i % inp < outliers ? 9 : 1));
      // The columns of outliers are those of all rows together: each part has one in every column that any has one in.
      for (const from of [0, 64, 128]) for (let k = 0; k < outliers; k++) x[from * inp + k] = 8;
      const format: Format = { kind: 'int8', threshold: outliers === 0 ? 0 : 6 };
      const got = await product(backend, format, shape, x);
      for (const [from, to] of [
        [0, 64],
        [64, 128],
        [128, 140],
      ] as const) {
        expect(await product(backend, format, shape, x.subarray(inp * from, inp * to))).toEqual(got.subarray(out * from, out * to));
      }
    }
  });

  it.for<readonly [string, Format, readonly number[]]>([
    ['affine', affine, [2, 5, 66]],
    ['nf4', nf4, [2, 5, 66]],
    ['pairs of 4 bits, rotated', higgs(8, 2, 'f16'), [5, 66]],
    ['groups along columns', { ...affine, axis: 0, group: 16 }, [5, 66]],
    ['dense f32', { kind: 'dense', dtype: 'f32' }, [5, 66]],
    ['dense bf16', { kind: 'dense', dtype: 'bf16' }, [5, 66]],
  ])('%s: give NaN for a row with NaN or infinity, and for that row alone', async ([, format, counts], context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    pretend();
    await using backend = await cuda({ driver: FAKE_DRIVER }).open();
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      for (const rows of counts) {
        const x = toFloat32(seededTensor(1, [rows, 128], 1)).slice();
        const plain = await product(backend, format, [9, 128], x);
        x[3] = bad;
        const got = await product(backend, format, [9, 128], x);
        expect(got.subarray(0, 9).every(Number.isNaN)).toBe(true);
        expect(got.subarray(9)).toEqual(plain.subarray(9));
      }
    }
  });

  it.for<readonly [string, Format]>([
    ['pairs of 4 bits, rotated', higgs(8, 2, 'f16')],
    ['dense f32', { kind: 'dense', dtype: 'f32' }],
  ])('%s: give what the reference does for one or two rows with infinity', async ([, format], context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    pretend();
    await using backend = await cuda({ driver: FAKE_DRIVER }).open();
    await using reference = await referenceBackend().open();
    const x = toFloat32(seededTensor(1, [2, 128], 1)).slice();
    x[3] = Number.POSITIVE_INFINITY;
    const [got, expected] = [await product(backend, format, [9, 128], x), await product(reference, format, [9, 128], x)];
    expect([...got.subarray(0, 9)]).toEqual([...expected.subarray(0, 9)]);
  });
});
