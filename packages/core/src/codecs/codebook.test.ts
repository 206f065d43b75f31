import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { goldenJson, goldenTensors } from '../../../../fixtures/golden.ts';
import { elements, roundTo, toFloat32 } from '../dtype.ts';
import { packing } from '../pack/index.ts';
import type { Codebook, QuantizedTensor } from '../spec/format.ts';
import type { HostTensor, Matrix } from '../spec/tensor.ts';
import { float32Tensor, hostTensor } from '../tensor.ts';
import { codebookCodec, rotatedBasis } from './codebook.ts';
import { hadamardBlocks } from './hadamard.ts';

const DTYPES = ['f32', 'f16', 'bf16'] as const;

interface Case {
  readonly name: string;
  readonly file?: string;
  readonly shape: readonly number[];
  readonly tensors: Readonly<Record<string, string>>;
  readonly config: { readonly quant_type: 'nf4' | 'fp4'; readonly blocksize: number; readonly compress_statistics: boolean };
}

/** Zeros compare equal whatever their sign, NaN to NaN: what the manifest asks for. */
function values(tensor: HostTensor): Float32Array {
  return toFloat32(tensor).map((value) => (value === 0 ? 0 : value));
}

describe.each(['flat', 'nested'])('bitsandbytes goldens, %s', (kind) => {
  const tensors = goldenTensors(`bnb/quant4_${kind}.safetensors`);
  const cases = goldenJson<{ cases: Case[] }>('bnb/cases.json').cases.filter((c) => c.file === `quant4_${kind}.safetensors`);
  // The cases of NaN and infinity carry no table of their own; a table belongs to the type.
  const tableOf = (type: string): HostTensor =>
    tensors.get(cases.find((c) => c.config.quant_type === type)!.tensors['expected.quant_map']!)!;

  function tensorOf(c: Case): QuantizedTensor<Codebook> {
    const get = (name: string): HostTensor => tensors.get(c.tensors[`expected.${name}`]!)!;
    const inp = c.shape.at(-1)!;
    const shape: Matrix = [c.shape.slice(0, -1).reduce((product, extent) => product * extent, 1), inp];
    const { quant_type, blocksize, compress_statistics: nested } = c.config;
    const map: Codebook = { kind: 'codebook', bits: 8, dim: 1, group: 256, table: 'dynamic', scale: 'f32', packing: 'u8' };
    const flat: Codebook = { kind: 'codebook', bits: 4, dim: 1, group: blocksize, table: quant_type, scale: 'f32', packing: 'bnb_nibble' };
    const format: Codebook = nested ? { ...flat, scale: map, offset: true } : flat;
    const specs = codebookCodec.parts(format, shape);
    const part = (name: string, published: HostTensor): [string, HostTensor] => [name, { ...specs[name]!, data: published.data }];
    const scales = nested
      ? [
          part('scale.codes', get('absmax_q')),
          part('scale.table', get('nested_quant_map')),
          part('scale.scale', get('nested_absmax')),
          part('scale.offset', get('offset')),
        ]
      : [part('scale', get('absmax_f32'))];
    return { format, shape, parts: Object.fromEntries([part('codes', get('packed')), part('table', tableOf(quant_type)), ...scales]) };
  }

  it('are there', () => {
    expect(cases.length).toBe(kind === 'flat' ? 76 : 18);
    expect(cases.every((c) => c.config.compress_statistics === (kind === 'nested'))).toBe(true);
  });

  it.each(cases)('$name', (c) => {
    const tensor = tensorOf(c);
    for (const dtype of DTYPES) {
      const name = c.tensors[`expected.dequantized_${dtype}`];
      if (!name) continue;
      const expected = tensors.get(name)!;
      const actual = codebookCodec.dequantize(tensor, { dtype });
      expect(actual.dtype).toBe(expected.dtype);
      expect(values(actual)).toEqual(values(expected));
    }
    const [out, inp] = tensor.shape;
    const codes = codebookCodec.unpackRows(tensor, 0, out);
    expect(codes.shape).toEqual([out, inp]);
    const whole = packing('bnb_nibble').unpack(tensor.parts.codes!.data, out, inp);
    expect(codes.data).toEqual(whole);
  });
});

/** Codebooks of one or two dimensions, ragged last blocks, f16 scales. */
const codebook = fc
  .record({
    dim: fc.constantFrom(1 as const, 2 as const),
    bits: fc.integer({ min: 1, max: 4 }),
    out: fc.integer({ min: 1, max: 12 }),
    inp: fc.integer({ min: 1, max: 12 }),
    group: fc.integer({ min: 1, max: 20 }),
    numbers: fc.array(fc.float({ min: -4, max: 4, noNaN: true, noDefaultInfinity: true }), { minLength: 7, maxLength: 60 }),
    salt: fc.nat({ max: 1000 }),
  })
  .map(({ dim, bits, out, inp, group, numbers, salt }) => {
    const shape: Matrix = [out, inp * dim];
    const format: Codebook = { kind: 'codebook', bits, dim, group: group * dim, table: 'any', scale: 'f16', packing: 'u8' };
    const specs = codebookCodec.parts(format, shape);
    const table = Float32Array.from({ length: 2 ** (bits * dim) * dim }, (_, i) => numbers[i % numbers.length]! + i);
    const blocks = Math.ceil((out * inp) / group);
    const scales = Uint16Array.from({ length: blocks }, (_, i) => 0x3000 + ((i * 37 + salt) & 0xfff));
    const codes = Uint8Array.from({ length: out * inp }, (_, i) => (i * 131 + salt * (i % 7)) & (2 ** (bits * dim) - 1));
    const parts = {
      codes: hostTensor('u8', [out * inp], codes),
      table: hostTensor('f32', specs.table!.shape, table),
      scale: hostTensor('f16', [blocks], scales),
    };
    const tensor: QuantizedTensor<Codebook> = { format, shape, parts };
    return { tensor, codes, table, scales: toFloat32(parts.scale) };
  });

describe('codebookCodec', () => {
  it('looks entries up and scales them by block', () => {
    fc.assert(
      fc.property(codebook, fc.constantFrom(...DTYPES), ({ tensor, codes, table, scales }, dtype) => {
        const { dim, group } = tensor.format;
        const expected = Float32Array.from({ length: codes.length * dim }, (_, f) => {
          const entry = table[codes[Math.floor(f / dim)]! * dim + (f % dim)]!;
          return roundTo(dtype, Math.fround(entry * scales[Math.floor(f / group)]!));
        });
        expect(toFloat32(codebookCodec.dequantize(tensor, { dtype }))).toEqual(expected);
      }),
      { numRuns: 200 },
    );
  });

  it('gives any rows as that slice of the whole', () => {
    fc.assert(
      fc.property(codebook, fc.nat(), fc.nat(), fc.boolean(), ({ tensor, codes }, a, b, rotated) => {
        const [out, inp] = tensor.shape;
        const block = inp & -inp; // the largest power of two that divides it
        const turned = rotated ? { ...tensor, format: { ...tensor.format, rotate: { kind: 'hadamard', block } as const } } : tensor;
        const [from, to] = [a % (out + 1), b % (out + 1)].sort((x, y) => x - y) as [number, number];
        const whole = codebookCodec.dequantize(turned);
        expect(elements(codebookCodec.dequantize(turned, { from, to }))).toEqual(elements(whole).slice(from * inp, to * inp));
        const perRow = inp / tensor.format.dim;
        expect(codebookCodec.unpackRows(tensor, from, to)).toEqual({
          dtype: 'u8',
          shape: [to - from, perRow],
          data: codes.slice(from * perRow, to * perRow),
        });
      }),
      { numRuns: 200 },
    );
  });

  it('goes on across the pieces of a large weight', () => {
    const shape: Matrix = [300, 500];
    const codes = Uint8Array.from({ length: 150000 }, (_, i) => (i * 31 + (i >> 8)) & 255);
    const table = Float32Array.from({ length: 256 }, (_, q) => q - 100);
    const scales = Float32Array.from({ length: 157 }, (_, b) => b + 1);
    const format: Codebook = { kind: 'codebook', bits: 8, dim: 1, group: 960, table: 'ramp', scale: 'f32', packing: 'u8' };
    const parts = {
      codes: hostTensor('u8', [150000], codes),
      table: hostTensor('f32', [256, 1], table),
      scale: hostTensor('f32', [157], scales),
    };
    const expected = Float32Array.from(codes, (q, f) => (q - 100) * (Math.floor(f / 960) + 1));
    expect(toFloat32(codebookCodec.dequantize({ format, shape, parts }))).toEqual(expected);
    expect(toFloat32(codebookCodec.dequantize({ format, shape, parts }, { from: 101, to: 299 }))).toEqual(
      expected.slice(101 * 500, 299 * 500),
    );
  });

  it('undoes the rotation of each block, rounding once', () => {
    const format: Codebook = {
      kind: 'codebook',
      bits: 1,
      dim: 1,
      group: 4,
      table: 'sign',
      scale: 'f32',
      packing: 'u8',
      rotate: { kind: 'hadamard', block: 4 },
    };
    const parts = {
      codes: hostTensor('u8', [8], Uint8Array.of(1, 1, 1, 1, 1, 0, 1, 0)),
      table: float32Tensor([2, 1], [-1, 1]),
      scale: float32Tensor([2], [0.5, 0.1]),
    };
    const tensor: QuantizedTensor<Codebook> = { format, shape: [1, 8], parts };
    const tenth = Math.fround(0.1);
    expect([...toFloat32(codebookCodec.dequantize(tensor))]).toEqual([1, 0, 0, 0, 0, 2 * tenth, 0, 0]);
    expect([...toFloat32(codebookCodec.dequantize(tensor, { dtype: 'bf16' }))]).toEqual([1, 0, 0, 0, 0, roundTo('bf16', 2 * tenth), 0, 0]);
  });

  it('fills rows up to whole blocks, and drops the filling', () => {
    const format: Codebook = {
      kind: 'codebook',
      bits: 2,
      dim: 2,
      group: 4,
      table: 'any',
      scale: 'f16',
      packing: 'row_bits4',
      rotate: { kind: 'hadamard', block: 8 },
    };
    expect(codebookCodec.parts(format, [3, 10])).toEqual({
      codes: { dtype: 'u8', shape: [3, 4] },
      table: { dtype: 'f32', shape: [16, 2] },
      scale: { dtype: 'f16', shape: [12] },
    });
    expect(codebookCodec.parts(format, [3, 16])).toEqual(codebookCodec.parts(format, [3, 9]));
    const parts = {
      codes: hostTensor(
        'u8',
        [3, 4],
        Uint8Array.from({ length: 12 }, (_, i) => 29 * i),
      ),
      table: float32Tensor(
        [16, 2],
        Array.from({ length: 32 }, (_, i) => i - 15),
      ),
      scale: hostTensor(
        'f16',
        [12],
        Uint16Array.from({ length: 12 }, (_, i) => 0x3c00 + 37 * i),
      ),
    };
    const whole: QuantizedTensor<Codebook> = { format, shape: [3, 16], parts };
    const all = toFloat32(codebookCodec.dequantize(whole));
    const cut = toFloat32(codebookCodec.dequantize({ ...whole, shape: [3, 10] }, { from: 1 }));
    expect([...cut]).toEqual([...all.subarray(16, 26), ...all.subarray(32, 42)]);
    expect(codebookCodec.unpackRows({ ...whole, shape: [3, 10] }, 1, 3).shape).toEqual([2, 8]);
    const basis = rotatedBasis({ ...whole, shape: [3, 10] });
    const rotated = toFloat32(codebookCodec.dequantize(basis, { dtype: 'f16' })); // products have the dtype of the scale
    expect(rotated).not.toEqual(toFloat32(codebookCodec.dequantize(basis)));
    hadamardBlocks(rotated, 8);
    expect([...rotated]).toEqual([...all]);
  });
});

describe('codebookCodec refuses', () => {
  const format: Codebook = { kind: 'codebook', bits: 4, dim: 2, group: 8, table: 'any', scale: 'f16', packing: 'u8' };
  const nested: Codebook = { ...format, bits: 8, dim: 1 };
  it.each([
    ['codes wider than the packing', { packing: 'bnb_nibble' }, [4, 8]],
    ['an odd row of pairs', {}, [4, 7]],
    ['a group that splits a pair', { group: 7 }, [4, 8]],
    ['three dimensions', { dim: 3 as 2, bits: 2 }, [4, 9]],
    ['no bits', { bits: 0 }, [4, 8]],
    ['an offset without a nested scale', { offset: true }, [4, 8]],
    ['a rotation by 6', { rotate: { kind: 'hadamard', block: 6 } }, [4, 6]],
    ['integer scales', { scale: 'u8' }, [4, 8]],
    ['a nested scale that does not fit', { scale: { ...nested, bits: 9 } }, [4, 8]],
  ] as [string, Partial<Codebook>, Matrix][])('%s', (_, change, shape) => {
    expect(() => codebookCodec.parts({ ...format, scale: nested, offset: true }, [4, 8])).not.toThrow();
    expect(() => codebookCodec.parts({ ...format, ...change }, shape)).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED_FORMAT' }));
  });

  it('a code that is not in the table', () => {
    const small: Codebook = { ...format, bits: 2, dim: 1 };
    const parts = (code: number): Record<string, HostTensor> => ({
      codes: hostTensor('u8', [8], new Uint8Array(8).fill(code)),
      table: float32Tensor([4, 1], [1, 2, 3, 4]),
      scale: hostTensor('f16', [1], Uint16Array.of(0x3c00)),
    });
    expect([...toFloat32(codebookCodec.dequantize({ format: small, shape: [1, 8], parts: parts(3) }))]).toEqual(new Array(8).fill(4));
    expect(() => codebookCodec.dequantize({ format: small, shape: [1, 8], parts: parts(4) })).toThrow(
      expect.objectContaining({ code: 'ERR_TENSOR_MISMATCH', details: expect.objectContaining({ part: 'codes', code: 4, entries: 4 }) }),
    );
  });
});
