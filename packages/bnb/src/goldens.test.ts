// Outputs of bitsandbytes 0.50.2 on the CPU, compared as their manifest says.

import {
  type Codebook,
  dequantize,
  elements,
  float32Tensor,
  type HostTensor,
  hostTensor,
  isLowbitError,
  type Matrix,
  type QuantizedTensor,
  quantize,
  toFloat32,
} from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import { goldenJson, goldenTensors } from '../../../fixtures/golden.ts';
import { dequantizeBlockwise, quantizeBlockwise } from './blockwise.ts';
import { NESTED_BLOCK } from './double-quant.ts';
import { dynamicMap } from './dynamic-map.ts';
import { fp4, nf4 } from './four-bit.ts';
import { int8 } from './int8.ts';
import { mapBounds, nearestEntry } from './nearest.ts';

interface Case {
  readonly name: string;
  readonly file?: string;
  readonly shape: readonly number[];
  readonly tensors: Readonly<Record<string, string>>;
  readonly config: {
    readonly quant_type: 'nf4' | 'fp4';
    readonly blocksize: number;
    readonly weights: string;
    readonly role: 'weight' | 'activation';
    readonly map: 'signed' | 'unsigned';
  };
}

const all = goldenJson<{ cases: Case[] }>('bnb/cases.json').cases;
const casesOf = (file: string): Case[] => all.filter((c) => c.file === `${file}.safetensors`);
const named = (cases: readonly Case[]) => cases.map((c) => [c.name, c] as const);
const bits = (t: HostTensor): Uint32Array => elements({ dtype: 'u32', data: t.data });
/** Zeros compare equal whatever their sign. */
const values = (t: HostTensor): Float32Array => toFloat32(t).map((value) => (value === 0 ? 0 : value));
/** Weights of one or three dimensions are matrices of the same rows here. */
const matrix = (t: HostTensor): HostTensor => {
  const inp = t.shape.at(-1)!;
  return { ...t, shape: [t.shape.reduce((a, b) => a * b, 1) / inp, inp] };
};
const ulps = (a: number, b: number): number => {
  const [x, y] = new Int32Array(Float32Array.of(a, b).buffer);
  return Math.abs(x! - y!);
};

function reader(file: string): (c: Case, name: string) => HostTensor | undefined {
  const tensors = goldenTensors(`bnb/${file}.safetensors`);
  return (c, name) => tensors.get(c.tensors[name] ?? '');
}

function expectDequantized(q: QuantizedTensor, c: Case, golden: (c: Case, name: string) => HostTensor | undefined): void {
  for (const dtype of ['f32', 'f16', 'bf16'] as const) {
    const expected = golden(c, `expected.dequantized_${dtype}`);
    if (expected) expect(values(dequantize(q, { dtype }))).toEqual(values(expected));
  }
}

describe('4 bits, plain magnitudes', () => {
  const golden = reader('quant4_flat');
  const finite = casesOf('quant4_flat').filter((c) => !['nan', 'inf', 'neginf'].includes(c.config.weights));
  const degenerate = casesOf('quant4_flat').filter((c) => !finite.includes(c));

  it('are all there', () => expect([finite.length, degenerate.length]).toEqual([70, 6]));

  it.each(named(finite))('%s', async (_, c) => {
    const { quant_type: type, blocksize: blockSize } = c.config;
    const weight = matrix(golden(c, 'weight')!);
    const q = await quantize(weight, type === 'nf4' ? nf4({ blockSize }) : fp4({ blockSize }));
    expect(q.parts.codes!.data).toEqual(golden(c, 'expected.packed')!.data); // of any storage dtype
    expect(q.parts.codes!.data).toEqual(golden(c, 'serialized/weight')!.data);
    expect(bits(q.parts.table!)).toEqual(bits(golden(c, 'expected.quant_map')!));
    expect(bits(q.parts.scale!)).toEqual(bits(golden(c, 'expected.absmax_f32')!));
    expect(q.parts.scale!.data).toEqual(golden(c, 'serialized/weight.absmax')!.data);
    expectDequantized(q, c, golden);
    if (type === 'fp4') {
      const cuda = await quantize(weight, fp4({ blockSize, thresholds: 'cuda' }));
      expect(cuda.parts.codes!.data).toEqual(golden(c, 'derived.packed_cuda_rule')!.data);
    }
  });

  it.each(named(degenerate))('%s is refused', async (_, c) => {
    await expect(quantize(matrix(golden(c, 'weight')!), c.config.quant_type === 'nf4' ? nf4() : fp4())).rejects.toMatchObject({
      code: 'ERR_NON_FINITE',
      details: { index: 69 },
    });
  });

  it.each(named(degenerate))('%s as in Python with allowNonFinite', async (_, c) => {
    const options = { allowNonFinite: true };
    const q = await quantize(matrix(golden(c, 'weight')!), c.config.quant_type === 'nf4' ? nf4(options) : fp4(options));
    expect(q.parts.codes!.data).toEqual(golden(c, 'expected.packed')!.data);
    expect(toFloat32(q.parts.scale!)).toEqual(toFloat32(golden(c, 'expected.absmax_f32')!));
    expectDequantized(q, c, golden);
  });
});

describe('4 bits, double quantization', () => {
  const golden = reader('quant4_nested');
  const cases = casesOf('quant4_nested');

  it('are all there', () => expect(cases.length).toBe(18));

  it.each(named(cases))('%s', async (_, c) => {
    const { quant_type: type, blocksize: blockSize } = c.config;
    const options = { blockSize, doubleQuant: true };
    const weight = matrix(golden(c, 'weight')!);
    const q = await quantize(weight, type === 'nf4' ? nf4(options) : fp4(options));
    expect(q.parts.codes!.data).toEqual(golden(c, 'expected.packed')!.data);
    expect(bits(q.parts.table!)).toEqual(bits(golden(c, 'expected.quant_map')!));

    // The mean is summed in float64 here, in an order of its own in Python; the map is that of this machine there.
    const offset = toFloat32(golden(c, 'expected.offset')!)[0]!;
    const ours = toFloat32(q.parts['scale.offset']!)[0]!;
    expect(ulps(ours, offset)).toBeLessThanOrEqual(4);
    const ulp = 2 ** (Math.floor(Math.log2(Math.abs(offset))) - 23);
    const nested = toFloat32(q.parts['scale.scale']!);
    const expected = toFloat32(golden(c, 'expected.nested_absmax')!);
    expect(nested.length).toBe(expected.length);
    for (const [i, value] of nested.entries()) expect(Math.abs(value - expected[i]!)).toBeLessThanOrEqual(ours === offset ? 0 : 8 * ulp);
    const map = toFloat32(q.parts['scale.table']!);
    for (const [i, entry] of toFloat32(golden(c, 'expected.nested_quant_map')!).entries())
      expect(ulps(map[i]!, entry)).toBeLessThanOrEqual(2);
    const codes = golden(c, 'default.absmax_q')!.data;
    if (ours === offset) expect(q.parts['scale.codes']!.data).toEqual(codes);

    // With Python's own mean and map the codes are equal always.
    const bounds = mapBounds(toFloat32(golden(c, 'expected.nested_quant_map')!));
    const full = toFloat32(golden(c, 'expected.absmax_f32')!);
    const largest = toFloat32(golden(c, 'default.nested_absmax')!);
    const requantized = full.map((absmax, block) => {
      const group = Math.floor(block / NESTED_BLOCK);
      const distance = Math.fround(absmax - offset);
      const short = (group + 1) * NESTED_BLOCK > full.length;
      return nearestEntry(bounds, Math.fround(short ? distance / largest[group]! : distance * Math.fround(1 / largest[group]!)));
    });
    expect(Uint8Array.from(requantized)).toEqual(codes);
  });

  it.each(named(cases))('%s: what Python stored is dequantized to what Python makes of it', (_, c) => {
    const { blocksize } = c.config;
    const format: Codebook = (c.config.quant_type === 'nf4' ? nf4 : fp4)({ blockSize: blocksize, doubleQuant: true }).format(
      c.shape as Matrix,
      'f32',
    ) as Codebook;
    const part = (name: string, shape: readonly number[]): HostTensor => ({ ...golden(c, `expected.${name}`)!, shape });
    const blocks = golden(c, 'expected.absmax_f32')!.shape[0]!;
    const q: QuantizedTensor = {
      format,
      shape: matrix(golden(c, 'weight')!).shape as Matrix,
      parts: {
        codes: hostTensor('u8', [golden(c, 'expected.packed')!.data.length, 1], golden(c, 'expected.packed')!.data),
        table: part('quant_map', [16, 1]),
        'scale.codes': part('absmax_q', [blocks]),
        'scale.table': part('nested_quant_map', [256, 1]),
        'scale.scale': part('nested_absmax', [Math.ceil(blocks / 256)]),
        'scale.offset': part('offset', []),
      },
    };
    expectDequantized(q, c, golden);
  });
});

describe('8 bits in blocks', () => {
  const golden = reader('blockwise8');
  const [maps, ...cases] = casesOf('blockwise8');

  it('are all there', () => expect([maps!.name, cases.length]).toEqual(['maps', 13]));

  it.each(['signed', 'unsigned'] as const)('the %s map', (kind) => {
    const expected = toFloat32(golden(maps!, `expected.${kind}`)!);
    const map = dynamicMap({ signed: kind === 'signed' });
    expect(map.length).toBe(256);
    for (const [i, entry] of expected.entries()) expect(ulps(map[i]!, entry)).toBeLessThanOrEqual(2);
  });

  it.each(named(cases))('%s', (_, c) => {
    const map = toFloat32(golden(maps!, `expected.${c.config.map}`)!);
    const q = quantizeBlockwise(toFloat32(golden(c, 'x')!), { blockSize: c.config.blocksize, map });
    expect(q.codes).toEqual(golden(c, 'expected.q_nearest')!.data);
    expect(bits(float32Tensor([q.absmax.length], q.absmax))).toEqual(bits(golden(c, 'expected.absmax_nearest')!));
    const native = { ...q, codes: golden(c, 'native.q')!.data, absmax: toFloat32(golden(c, 'native.absmax')!) };
    const back = dequantizeBlockwise(native).map((value) => (value === 0 ? 0 : value));
    expect(back).toEqual(values(golden(c, 'expected.dequantized_native_f32')!));
  });
});

describe('LLM.int8 weights', () => {
  const golden = reader('int8');
  const weights = casesOf('int8').filter((c) => c.config.role === 'weight');
  const linears = casesOf('int8').filter((c) => c.tensors['state_dict/SCB']);

  it('are all there', () => expect([weights.length, linears.length]).toEqual([11, 26]));

  it.each(named(weights))('%s', async (_, c) => {
    const q = await quantize(golden(c, 'weight')!, int8());
    expect(q.parts.codes!.data).toEqual(golden(c, 'expected.CB')!.data);
    expect(bits(q.parts.scale!)).toEqual(bits(golden(c, 'expected.SCB')!));
    expectDequantized(q, c, golden);
  });

  it.each(named(linears))('%s', async (_, c) => {
    const q = await quantize(golden(c, 'weight')!, int8());
    expect(q.parts.codes!.data).toEqual(golden(c, 'state_dict/weight')!.data);
    expect(q.parts.scale!.data).toEqual(golden(c, 'state_dict/SCB')!.data);
  });
});

describe('the weights of Linear4bit', () => {
  const golden = reader('linear4bit');
  const cases = casesOf('linear4bit');

  it('are all there', () => expect(cases.length).toBe(18));

  it.each(named(cases))('%s', async (name, c) => {
    const doubleQuant = name.includes('nested');
    const q = await quantize(golden(c, 'weight')!, c.config.quant_type === 'nf4' ? nf4({ doubleQuant }) : fp4({ doubleQuant }));
    expect(q.parts.codes!.data).toEqual(golden(c, 'state_dict/weight')!.data);
    if (!doubleQuant) {
      expect(q.parts.scale!.data).toEqual(golden(c, 'state_dict/weight.absmax')!.data);
      expect(values(dequantize(q, { dtype: 'bf16' }))).toEqual(values(golden(c, 'expected.dequantized')!));
    }
  });

  it('errors are typed', async () => {
    const error = await quantize(float32Tensor([4], [1, 2, 3, 4]), nf4()).catch((e) => e);
    expect(isLowbitError(error, 'ERR_TENSOR_MISMATCH')).toBe(true);
  });
});
