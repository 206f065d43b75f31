// What the conformance kit does not ask: equal bytes on all instruction sets, the bounds of both precisions, and what happens at the edges.
import {
  type Backend,
  type Codebook,
  codecFor,
  type Format,
  hostTensor,
  type Matrix,
  productDtype,
  type QuantizedTensor,
  referenceBackend,
  toFloat32,
  writeFloat32,
} from '@lowbit/core';
import { higgsGrid } from '@lowbit/layouts';
import { ProgramBuilder } from '@lowbit/program';
import { formatSamples, sampleWeight, seededTensor } from '@lowbit/testing';
import { afterAll, describe, expect, it } from 'vitest';
import { needs } from '../../../fixtures/needs.ts';
import { type CpuOptions, cpu } from './cpu.ts';
import { addon } from './load.node.ts';

let isas: ReturnType<ReturnType<typeof addon.load>['isas']> = [];
let reason = '';
try {
  isas = addon.load().isas();
} catch (error) {
  reason = (error as Error).message;
}

const open = new Set<Backend>();
afterAll(async () => {
  for (const backend of open) await backend[Symbol.asyncDispose]();
});

async function backend(context: { skip(reason: string): void }, options: CpuOptions = {}): Promise<Backend> {
  needs(context, 'kernels-cpu', isas.length > 0, reason);
  const opened = await cpu({ threads: 2, ...options }).open();
  open.add(opened);
  return opened;
}

async function product(subject: Backend, weight: QuantizedTensor, x: Float32Array): Promise<Float32Array> {
  const rows = x.length / weight.shape[1];
  using linear = await subject.prepare(weight);
  const input = subject.alloc({ dtype: 'f32', shape: [rows, weight.shape[1]] });
  const output = subject.alloc({ dtype: 'f32', shape: [rows, weight.shape[0]] });
  subject.write(input, new Uint8Array(x.buffer, x.byteOffset, x.byteLength));
  linear.forward(input, output);
  const y = toFloat32(await subject.read(output)).slice();
  subject.free(input);
  subject.free(output);
  return y;
}

const random = (seed: number, rows: number, inp: number): Float32Array => toFloat32(seededTensor(seed, [rows, inp], 1)).slice();
const hqq = (levels: number, packing: string, group: number, axis: 0 | 1 = 1): Format => ({
  kind: 'affine',
  levels,
  group,
  axis,
  scale: 'f16',
  zero: 'f16',
  packing,
});
const nf4: Format = { kind: 'codebook', bits: 4, dim: 1, group: 64, table: 'nf4', scale: 'f32', packing: 'bnb_nibble' };

const hadamard = (block: number): NonNullable<Codebook['rotate']> => ({ kind: 'hadamard', block });
const higgs = (bits: number, dim: 1 | 2, group: number, scale: 'f16' | 'bf16', block: number): Codebook => ({
  kind: 'codebook',
  bits,
  dim,
  group,
  table: `higgs-${bits}-${dim}`,
  scale,
  packing: `row_bits${bits * dim}`,
  rotate: hadamard(block),
});

/** In tiles: odd numbers of rows, several blocks, columns of classes. */
const TILED: readonly (readonly [string, Format, Matrix])[] = [
  ['8 bits', hqq(256, '8bit_u8', 64), [37, 192]],
  ['4 bits', hqq(16, '4bit_u8', 64), [50, 320]],
  ['4 bits in groups of 8', hqq(16, '4bit_u8', 8), [34, 40]],
  ['4 bits in groups of 128', hqq(16, '4bit_u8', 128), [70, 256]],
  ['3 bits', hqq(8, '3bit_32', 64), [33, 128]],
  ['2 bits in groups of 16', hqq(4, '2bit_u8', 16), [36, 112]],
  ['1 bit in groups of 32', hqq(2, '1bit_u8', 32), [48, 96]],
  ['1 bit in groups of 16', hqq(2, '1bit_u8', 16), [48, 48]],
  ['4 bits by columns', hqq(16, '4bit_u8', 64, 0), [192, 80]],
  ['3 bits by columns', hqq(8, '3bit_32', 16, 0), [48, 51]],
  ['NF4', nf4, [35, 256]],
  ['int8', { kind: 'int8', threshold: 0 }, [35, 100]],
  ['pairs of 4 bits, without a rotation', { ...nf4, dim: 2, group: 64, packing: 'u8' } as Format, [35, 256]],
  ['pairs of 3 bits, rotated, f32 scales', { ...nf4, dim: 2, bits: 3, packing: 'u8', rotate: hadamard(64) } as Format, [35, 250]],
  ['HIGGS 4 bits', higgs(4, 2, 256, 'f16', 512), [37, 1000]],
  ['HIGGS 4 bits, bf16', higgs(4, 2, 64, 'bf16', 64), [50, 320]],
  ['HIGGS 3 bits', higgs(3, 2, 128, 'f16', 128), [33, 380]],
  ['HIGGS 3 bits in groups of 16', higgs(3, 2, 16, 'f16', 32), [33, 70]],
  ['HIGGS 2 bits', higgs(2, 2, 256, 'f16', 256), [20, 512]],
  ['HIGGS 4 bits of one dimension', higgs(4, 1, 64, 'f16', 64), [19, 100]],
  ['HIGGS 3 bits of one dimension', higgs(3, 1, 256, 'bf16', 256), [19, 256]],
];

/** A seeded weight; those of HIGGS with its grid, in the 16 bits of its scales. */
function sample(format: Format, shape: Matrix, seed: number): QuantizedTensor {
  const weight = sampleWeight(format, shape, seed);
  const { table, bits, dim } = format as Codebook;
  if (format.kind !== 'codebook' || !table.startsWith('higgs')) return weight;
  const dtype = productDtype(format as Codebook);
  const grid = toFloat32({ dtype, shape: [2 ** (bits * dim), dim], data: writeFloat32(dtype, higgsGrid(dim, 2 ** (bits * dim))) });
  return { ...weight, parts: { ...weight.parts, table: hostTensor('f32', [2 ** (bits * dim), dim], grid) } };
}

/** Relative error of a product that is not rounded to 16 bits, where the codec rounds it. */
const unrounded = (format: Format): number =>
  format.kind !== 'codebook' ? 0 : { f16: 2 ** -11, bf16: 2 ** -8, f32: 0 }[productDtype(format as Codebook)];

describe('products', () => {
  it.for(TILED)('%s: the same bytes on every instruction set, with any number of threads', async ([, format, shape], context) => {
    needs(context, 'kernels-cpu', isas.length > 0, reason);
    const weight = sample(format, shape, 5);
    for (const precision of ['exact', 'fast'] as const) {
      for (const rows of [1, 2, 5, 27]) {
        const x = random(rows, rows, shape[1]);
        let first: Float32Array | undefined;
        for (const isa of isas) {
          // Rounded products are multiplied in f32, with fused operations where there are some.
          if (precision === 'exact' && unrounded(format) > 0) first = undefined;
          for (const threads of [1, 3]) {
            const subject = await cpu({ isa, threads, precision }).open();
            const y = await product(subject, weight, x);
            await subject[Symbol.asyncDispose]();
            first ??= y;
            expect(y, `${isa}, ${threads} threads, ${rows} rows, ${precision}`).toEqual(first);
          }
        }
      }
    }
  });

  // |y - exact| <= error * sum |x| |w|, with w before its zero is taken off; the sums of f32 add to it.
  it.for([
    ['exact', 1, 2 ** -21],
    ['exact', 27, 2 ** -21],
    ['fast', 1, 2 ** -14],
    ['fast', 27, 2 ** -14],
  ] as const)('%s: within its bound for %i rows', async ([precision, rows, bound], context) => {
    needs(context, 'kernels-cpu', isas.length > 0, reason);
    for (const [name, format, shape] of TILED) {
      if (format.kind === 'int8') continue;
      const weight = sample(format, shape, 9);
      const [out, inp] = shape;
      const x = random(3, rows, inp);
      const subject = await cpu({ threads: 2, precision }).open();
      const y = await product(subject, weight, x);
      await subject[Symbol.asyncDispose]();
      const dense = toFloat32(codecFor(format).dequantize(weight));
      const codec = codecFor(format).numbers(weight)!;
      const largestEntry = Math.max(...(codec.table ?? [0]).map(Math.abs));
      const widest =
        Math.max(...codec.scale.map(Math.abs)) * (format.kind === 'affine' ? (format as { levels: number }).levels : 2 * largestEntry);
      // `fast`: activations of a codebook have 14 bits in place of 16, its numbers 12.
      const table = format.kind === 'codebook' ? (precision === 'fast' ? 3 * bound + 2 ** -12 + unrounded(format) : 2 ** -16) : 0;
      for (let row = 0; row < rows; row++) {
        const spread = Math.sqrt((format as Codebook).rotate?.block ?? 1); // a rotation makes numbers larger by so much at most
        const largest = spread * x.subarray(row * inp, (row + 1) * inp).reduce((most, v) => Math.max(most, Math.abs(v)), 0);
        for (let i = 0; i < out; i++) {
          let sum = 0;
          for (let k = 0; k < inp; k++) sum += x[row * inp + k]! * dense[i * inp + k]!;
          const allowed = (bound + table) * largest * widest * inp * 0.5;
          expect(Math.abs(y[row * out + i]! - sum), `${name}: ${row}, ${i}`).toBeLessThanOrEqual(allowed);
        }
      }
    }
  });

  it('int8 gives the bytes of the reference, and counts the same outliers', async (context) => {
    const subject = await backend(context);
    const reference = await referenceBackend().open();
    open.add(reference);
    for (const threshold of [6, 0]) {
      const weight = sampleWeight({ kind: 'int8', threshold }, [83, 210], 3);
      const bias = seededTensor(5, [83]);
      for (const rows of [1, 7, 30]) {
        const x = random(rows, rows, 210).map((v, i) => (i % 97 === 0 ? 9 * v : v));
        if (rows === 7) x.fill(0, 210, 420);
        if (rows === 30) x[5] = Number.NaN;
        const results: Float32Array[] = [];
        const counts: unknown[] = [];
        for (const one of [subject, reference]) {
          using linear = await one.prepare(weight, { bias });
          const input = one.alloc({ dtype: 'f32', shape: [rows, 210] });
          const output = one.alloc({ dtype: 'f32', shape: [rows, 83] });
          one.write(input, new Uint8Array(x.buffer));
          linear.forward(input, output);
          linear.forward(input, output);
          results.push(toFloat32(await one.read(output)).slice());
          counts.push({ ...linear.outliers });
        }
        expect(results[0], `${rows} rows, threshold ${threshold}`).toEqual(results[1]);
        expect(counts[0]).toEqual(counts[1]);
      }
    }
  });

  it('int8 counts the outliers of steps, too, as the reference does', async (context) => {
    const subject = await backend(context);
    const reference = await referenceBackend().open();
    open.add(reference);
    const b = new ProgramBuilder({ layers: 0 });
    const x = b.input('x', { width: 96 });
    b.output('out', b.linear(x, b.addLinear('plain', [8, 96])));
    b.output('counted', b.linear(b.select(x), b.addLinear('counted', [16, 96])));
    const program = b.build();
    const plain = sampleWeight({ kind: 'dense', dtype: 'f32' }, [8, 96]);
    const weight = sampleWeight({ kind: 'int8', threshold: 6 }, [16, 96], 3);
    const counts = [];
    for (const one of [subject, reference]) {
      using first = await one.prepare(plain);
      using linear = await one.prepare(weight);
      using executable = await one.compile(program, [first, linear], { contextLength: 16 });
      const id = executable.open();
      for (const rows of [3, 1, 2]) {
        const values = random(rows, rows, 96);
        for (const column of [5, 40, 41].slice(0, rows)) values[(rows - 1) * 96 + column] = 20;
        const input = { dtype: 'f32', shape: [rows, 96], data: new Uint8Array(values.buffer) } as const;
        await executable.step([{ id, tokens: new Uint32Array(rows), inputs: { x: input } }]);
      }
      // a step without wanted rows multiplies nothing
      await executable.step([
        {
          id,
          tokens: new Uint32Array(1),
          wanted: new Uint32Array(0),
          inputs: { x: { dtype: 'f32', shape: [1, 96], data: new Uint8Array(384) } },
        },
      ]);
      expect(first.outliers).toBeUndefined();
      counts.push({ ...linear.outliers });
    }
    expect(counts).toEqual([
      { products: 3, columns: 6 },
      { products: 3, columns: 6 },
    ]);
  });

  it('a result that nobody reads does not meet the one after it', async (context) => {
    const subject = await backend(context, { threads: 3 });
    const b = new ProgramBuilder({ layers: 0 });
    const x = b.input('x', { width: 256 });
    b.linear(x, b.addLinear('unread', [96, 256]));
    b.output('out', b.linear(x, b.addLinear('read', [96, 256])));
    const program = b.build();
    const format = hqq(16, '4bit_u8', 64);
    using unread = await subject.prepare(sampleWeight(format, [96, 256], 1));
    const weight = sampleWeight(format, [96, 256], 2);
    using read = await subject.prepare(weight);
    using executable = await subject.compile(program, [unread, read], { contextLength: 2048 });
    for (const rows of [1, 40]) {
      const values = random(rows, rows, 256);
      const expected = await product(subject, weight, values);
      for (let round = 0; round < 20; round++) {
        const id = executable.open();
        const input = { dtype: 'f32', shape: [rows, 256], data: new Uint8Array(values.buffer) } as const;
        const wanted = Uint32Array.from({ length: rows }, (_, i) => i);
        const { out } = await executable.step([{ id, tokens: new Uint32Array(rows), wanted, inputs: { x: input } }]);
        expect(toFloat32(out!), `${rows} rows`).toEqual(expected);
        executable.close(id);
      }
    }
  });

  it('what a signal was aborted with comes back as it is, null too', async (context) => {
    const subject = await backend(context);
    for (const why of [null, 'enough', 0]) {
      const controller = new AbortController();
      const prepared = subject.prepare(sampleWeight(hqq(16, '4bit_u8', 64), [20, 128]), { signal: controller.signal });
      controller.abort(why);
      expect(
        await prepared.then(
          () => 'prepared',
          (error: unknown) => [error],
        ),
      ).toEqual([why]);
    }
    expect(subject.allocated()).toBe(0);
  });

  it('FP4, whose numbers are multiples of 1/192, is as exact as a grid', async (context) => {
    const subject = await backend(context);
    const table = Float32Array.of(0, 1, 128, 192, 64, 96, 32, 48, 0, -1, -128, -192, -64, -96, -32, -48).map((v) => v / 192);
    const weight = sampleWeight({ ...nf4, table: 'fp4' } as Format, [16, 64]);
    const parts = { ...weight.parts, table: hostTensor('f32', [16, 1], table) };
    const x = new Float32Array(64);
    x[7] = 1; // one column of the weight comes out
    const y = await product(subject, { ...weight, parts }, x);
    const dense = toFloat32(codecFor(weight.format).dequantize({ ...weight, parts }));
    for (let i = 0; i < 16; i++) expect(y[i]).toBeCloseTo(dense[i * 64 + 7]!, 6);
  });

  it('a row with NaN or infinity spoils its own results alone; tiny and zero rows are exact', async (context) => {
    const subject = await backend(context);
    const weight = sampleWeight(hqq(16, '4bit_u8', 64), [20, 128]);
    const x = random(1, 5, 128);
    const clean = await product(subject, weight, x);
    x[128] = Number.NaN;
    x[256 + 100] = Number.POSITIVE_INFINITY;
    x.fill(0, 384, 512);
    for (let k = 512; k < 640; k++) x[k]! *= 1e-38;
    const y = await product(subject, weight, x);
    expect(y.subarray(0, 20)).toEqual(clean.subarray(0, 20));
    expect([...y.subarray(20, 60)].every(Number.isNaN)).toBe(true);
    expect([...y.subarray(60, 80)].every((v) => v === 0)).toBe(true);
    expect([...y.subarray(80)].every((v) => Math.abs(v) < 1e-35)).toBe(true);
  });

  it('takes tensors at any byte offset, no rows, and codes in pieces', async (context) => {
    const subject = await backend(context);
    const weight = sampleWeight(hqq(16, '4bit_u8', 64), [300, 3520]); // more than one piece of 2^20 codes
    const shifted = Object.fromEntries(
      Object.entries(weight.parts).map(([name, part]) => {
        const bytes = new Uint8Array(part.data.length + 3);
        bytes.set(part.data, 3);
        return [name, { ...part, data: bytes.subarray(3) }];
      }),
    );
    const x = random(2, 2, 3520);
    expect(await product(subject, { ...weight, parts: shifted }, x)).toEqual(await product(subject, weight, x));
    expect((await product(subject, weight, new Float32Array(0))).length).toBe(0);
    using linear = await subject.prepare(weight);
    const { data } = await linear.dequantize();
    expect(Buffer.compare(data, codecFor(weight.format).dequantize(weight).data)).toBe(0);
  });

  it('a code without a table entry is refused and leaves nothing', async (context) => {
    const subject = await backend(context);
    const weight = sampleWeight({ kind: 'codebook', bits: 3, dim: 1, group: 64, table: 't', scale: 'f32', packing: 'u8' }, [4, 64]);
    const codes = { ...weight.parts.codes!, data: weight.parts.codes!.data.slice().fill(8, 100, 101) };
    await expect(subject.prepare({ ...weight, parts: { ...weight.parts, codes } })).rejects.toMatchObject({ code: 'ERR_TENSOR_MISMATCH' });
    expect(subject.allocated()).toBe(0);
  });

  it('tells every sample whether it is taken, with words and bytes', async (context) => {
    const subject = await backend(context);
    const taken = formatSamples().map(({ name, weight }) => {
      const support = subject.supports({ format: weight.format, shape: weight.shape, use: 'linear' });
      return support.level === 'none' ? `${name}: ${support.reason}` : `${name}: ${support.level}`;
    });
    expect(taken.filter((line) => line.includes('kernels-cpu'))).toEqual([]);
    const dense64 = subject.supports({ format: { kind: 'dense', dtype: 'f64' }, shape: [4, 4], use: 'linear' });
    expect(dense64).toMatchObject({ level: 'none', reason: expect.stringContaining('f64') });
    const own = { kind: 'a:b', params: {} } as const;
    const codec = { ...codecFor({ kind: 'dense', dtype: 'f32' }), kind: 'a:b' as const, parts: () => ({}) };
    const wide = await backend(context, { codecs: [codec] });
    expect(wide.supports({ format: own, shape: [4, 6], use: 'linear' })).toEqual({ level: 'dequant', bytes: 96 });
  });
});
