import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { goldenJson, goldenTensors } from '../../../../fixtures/golden.ts';
import { elements, roundTo, toFloat32, writeFloat32 } from '../dtype.ts';
import { isLanePacking, isTilePacking, PACKINGS, packing } from '../pack/index.ts';
import type { Affine, QuantizedTensor } from '../spec/format.ts';
import type { HostTensor, Matrix } from '../spec/tensor.ts';
import { float32Tensor, hostTensor } from '../tensor.ts';
import { affineCodec, grouping } from './affine.ts';

const DTYPES = ['f32', 'f16', 'bf16'] as const;
const LEVELS: Readonly<Record<string, number>> = { '8': 256, '6': 64, '5': 32, '4': 16, '3': 8, '2': 4, '1.58': 3, '1': 2 };

interface Case {
  readonly name: string;
  readonly file?: string;
  readonly shape: Matrix;
  readonly packing: string;
  readonly tensors: Readonly<Record<string, string>>;
  readonly config: { readonly nbits: number; readonly group_size: number | null; readonly axis: 0 | 1; readonly channel_wise?: boolean };
}

describe('HQQ goldens', () => {
  const tensors = goldenTensors('hqq/quantize.safetensors');
  const cases = goldenJson<{ cases: Case[] }>('hqq/cases.json').cases.filter((c) => c.file === 'quantize.safetensors');
  const checked = cases.flatMap((c) =>
    DTYPES.filter((dtype) => c.tensors[`expected.dequantized_${dtype}`]).map((dtype) => ({ ...c, dtype })),
  );

  function tensorOf(c: Case): QuantizedTensor<Affine> {
    const get = (name: string): HostTensor => tensors.get(c.tensors[`expected.${name}`]!)!;
    const { nbits, axis, channel_wise } = c.config;
    // One scale for the whole tensor is one group along axis 0: the packed bytes are the same where the reference's packing works.
    const group = channel_wise === false ? c.shape[0] * c.shape[1] : c.config.group_size;
    const format: Affine = { kind: 'affine', levels: LEVELS[nbits]!, group, axis, scale: 'f32', zero: 'f32', packing: c.packing };
    const specs = affineCodec.parts(format, c.shape);
    if (channel_wise !== false) {
      expect(get('scale').shape).toEqual(specs.scale!.shape);
      expect(get('zero').shape).toEqual(specs.zero!.shape);
    }
    const part = (name: string, published: string): HostTensor => ({ ...specs[name]!, data: get(published).data });
    return { format, shape: c.shape, parts: { codes: part('codes', 'W_q'), scale: part('scale', 'scale'), zero: part('zero', 'zero') } };
  }

  it('are many', () => expect(checked.length).toBeGreaterThan(200));

  it.each(checked)('$name dequantizes bit for bit in $dtype', (c) => {
    const expected = tensors.get(c.tensors[`expected.dequantized_${c.dtype}`]!)!;
    const tensor = tensorOf(c);
    const actual = affineCodec.dequantize(tensor, { dtype: c.dtype });
    expect({ dtype: actual.dtype, shape: actual.shape }).toEqual({ dtype: c.dtype, shape: expected.shape });
    expect(elements(actual)).toEqual(elements(expected));
    const codes = tensors.get(c.tensors['expected.codes']!)!;
    expect(affineCodec.unpackRows(tensor, 0, c.shape[0])).toEqual({ dtype: 'u8', shape: [...c.shape], data: codes.data });
  });
});

/** Any affine tensor of any shape: groups straddle rows, axes, packings and zeros vary. */
const affine = fc
  .record({
    // Tiles of rows are for rotated codebooks; they would need many rows.
    packing: fc.constantFrom(...Object.values(PACKINGS).filter((p) => !isTilePacking(p))),
    axis: fc.constantFrom(0 as const, 1 as const),
    out: fc.integer({ min: 1, max: 24 }),
    inp: fc.integer({ min: 1, max: 24 }),
    pick: fc.nat(),
    zero: fc.constantFrom('none' as const, 'f16' as const, 'f32' as const),
    seed: fc.integer({ min: 1, max: 1e9 }),
  })
  .map(({ packing: p, axis, out, inp, pick, zero, seed }) => {
    const shape: Matrix = [out * (isLanePacking(p) && p.name !== '3bit_32' ? p.lanes : 1), inp];
    const count = shape[0] * shape[1];
    const fits = (group: number): boolean => {
      const rows = axis === 1 ? count / group : group;
      return count % group === 0 && (p.name === '3bit_32' || !isLanePacking(p) || rows % p.lanes === 0);
    };
    const groups: (number | null)[] = Array.from({ length: count }, (_, i) => i + 1).filter(fits);
    if (fits(axis === 1 ? inp : shape[0])) groups.push(null);
    const format: Affine = {
      kind: 'affine',
      levels: 2 ** p.bits,
      group: groups[pick % groups.length]!,
      axis,
      scale: 'f32',
      zero,
      packing: p.name,
    };
    let state = seed;
    const random = (): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state / 2 ** 32;
    };
    const { rows, columns, groups: n } = grouping(format, shape);
    const codes = Uint8Array.from({ length: count }, () => Math.floor(random() * format.levels));
    const scales = Float32Array.from({ length: n }, () => random() - 0.3);
    const zeros = Float32Array.from({ length: n }, () => random() * format.levels);
    const specs = affineCodec.parts(format, shape);
    const parts: Record<string, HostTensor> = {
      codes: { ...specs.codes!, data: p.pack(codes, rows, columns) },
      scale: { ...specs.scale!, data: writeFloat32('f32', scales) },
    };
    if (zero !== 'none') parts.zero = { ...specs.zero!, data: writeFloat32(zero, zeros) };
    const tensor: QuantizedTensor<Affine> = { format, shape, parts };
    return { tensor, codes, scales, zeros };
  });

describe('affineCodec', () => {
  it('follows the definition of its groups', () => {
    fc.assert(
      fc.property(affine, fc.constantFrom(...DTYPES), ({ tensor, codes, scales, zeros }, dtype) => {
        const { format, shape } = tensor;
        const size = format.group ?? shape[format.axis];
        const groups = codes.length / size;
        const expected = Float32Array.from(codes, (q, f) => {
          const g = format.axis === 1 ? Math.floor(f / size) : f % groups;
          const stored = format.zero === 'none' ? format.levels / 2 : roundTo(format.zero as 'f16', zeros[g]!);
          return roundTo(dtype, roundTo(dtype, q - roundTo(dtype, stored)) * roundTo(dtype, scales[g]!));
        });
        expect(toFloat32(affineCodec.dequantize(tensor, { dtype }))).toEqual(expected);
      }),
      { numRuns: 300 },
    );
  });

  it('gives any rows as that slice of the whole', () => {
    fc.assert(
      fc.property(affine, fc.nat(), fc.nat(), fc.constantFrom(...DTYPES), ({ tensor, codes }, a, b, dtype) => {
        const [out, inp] = tensor.shape;
        const [from, to] = [a % (out + 1), b % (out + 1)].sort((x, y) => x - y) as [number, number];
        const whole = affineCodec.dequantize(tensor, { dtype });
        const rows = affineCodec.dequantize(tensor, { dtype, from, to });
        expect(rows.shape).toEqual([to - from, inp]);
        expect(elements(rows)).toEqual(elements(whole).slice(from * inp, to * inp));
        expect(affineCodec.unpackRows(tensor, from, to)).toEqual({
          dtype: 'u8',
          shape: [to - from, inp],
          data: codes.slice(from * inp, to * inp),
        });
      }),
      { numRuns: 300 },
    );
  });

  it.each([0, 1] as const)('goes on across the pieces of a large weight, axis %i', (axis) => {
    const shape: Matrix = [500, 300]; // 150,000 weights, more than two pieces of 64 Ki
    const format: Affine = { kind: 'affine', levels: 256, group: 250, axis, scale: 'f32', zero: 'none', packing: 'u8' };
    const codes = Uint8Array.from({ length: 150000 }, (_, i) => (i * 31 + (i >> 8)) & 255);
    const scales = Float32Array.from({ length: 600 }, (_, g) => g + 1);
    const parts = { codes: hostTensor('u8', [150000], codes), scale: hostTensor('f32', axis === 1 ? [600, 1] : [1, 600], scales) };
    const expected = Float32Array.from(codes, (q, f) => (q - 128) * (axis === 1 ? Math.floor(f / 250) + 1 : (f % 600) + 1));
    expect(toFloat32(affineCodec.dequantize({ format, shape, parts }))).toEqual(expected);
    const rows = affineCodec.dequantize({ format, shape, parts }, { from: 211, to: 480 });
    expect(toFloat32(rows)).toEqual(expected.slice(211 * 300, 480 * 300));
  });

  it('reads a quantized scale and a quantized zero of one group', () => {
    // HQQ before 0.2: the zero is 8-bit with one scale for the tensor, the scale 8-bit in strided groups; here of 2 out of 4 values.
    const inner = { kind: 'affine', levels: 256, axis: 0, scale: 'f32', zero: 'f32', packing: '8bit_u8' } as const;
    const format: Affine = {
      kind: 'affine',
      levels: 16,
      group: 2,
      axis: 1,
      packing: '4bit_u8',
      scale: { ...inner, group: 2 },
      zero: { ...inner, group: null },
    };
    const shape: Matrix = [2, 4];
    const specs = affineCodec.parts(format, shape);
    expect(Object.fromEntries(Object.entries(specs).map(([name, spec]) => [name, spec.shape]))).toEqual({
      codes: [2, 2],
      'scale.codes': [2, 2],
      'scale.scale': [1, 2],
      'scale.zero': [1, 2],
      'zero.codes': [4, 1],
      'zero.scale': [1, 1],
      'zero.zero': [1, 1],
    });
    const tensor: QuantizedTensor<Affine> = {
      format,
      shape,
      parts: {
        codes: hostTensor('u8', [2, 2], packing('4bit_u8').pack(Uint8Array.of(0, 1, 2, 3, 4, 5, 6, 7), 4, 2)),
        'scale.codes': hostTensor('u8', [2, 2], Uint8Array.of(1, 2, 3, 4)), // scales 1 * 10, 2 * 100, 3 * 10, 4 * 100
        'scale.scale': float32Tensor([1, 2], [10, 100]),
        'scale.zero': float32Tensor([1, 2], [0, 0]),
        'zero.codes': hostTensor('u8', [4, 1], Uint8Array.of(3, 5, 7, 9)), // zeros 1, 2, 3, 4
        'zero.scale': float32Tensor([1, 1], [0.5]),
        'zero.zero': float32Tensor([1, 1], [1]),
      },
    };
    expect([...toFloat32(affineCodec.dequantize(tensor))]).toEqual([-10, 0, 0, 200, 30, 60, 800, 1200]);
    expect([...toFloat32(affineCodec.dequantize(tensor, { from: 1 }))]).toEqual([30, 60, 800, 1200]);
  });

  it('rounds a nested scale in the dtype of the result, as HQQ does', () => {
    const scale: Affine = { kind: 'affine', levels: 256, axis: 0, group: 1, scale: 'f32', zero: 'none', packing: 'u8' };
    const format: Affine = { kind: 'affine', levels: 256, axis: 1, group: 1, scale, zero: 'none', packing: 'u8' };
    const parts = {
      codes: hostTensor('u8', [1], Uint8Array.of(131)),
      'scale.codes': hostTensor('u8', [1], Uint8Array.of(255)),
      'scale.scale': float32Tensor([1, 1], [0.3]),
    };
    // 0.3 is 0.30078125 in bf16, and 127 times that is 38.25. Rounding the scale after the product would give 114, only the end 114.5.
    expect(roundTo('bf16', 3 * roundTo('bf16', 127 * Math.fround(0.3)))).toBe(114);
    expect(roundTo('bf16', 3 * 127 * Math.fround(0.3))).toBe(114.5);
    expect([...toFloat32(affineCodec.dequantize({ format, shape: [1, 1], parts }, { dtype: 'bf16' }))]).toEqual([115]);
  });
});

describe('affineCodec refuses', () => {
  const format: Affine = { kind: 'affine', levels: 16, group: 8, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' };
  it.each([
    ['groups that do not divide', { group: 5 }, [4, 8]],
    ['rows that do not pack', {}, [3, 8]],
    ['a group of nothing', { group: 0 }, [4, 8]],
    ['half a group', { group: 1.5 }, [4, 9]],
    ['more levels than the packing has', { levels: 17 }, [4, 8]],
    ['one level', { levels: 1 }, [4, 8]],
    ['integer scales', { scale: 'i32' }, [4, 8]],
    ['integer zeros', { zero: 'u8' }, [4, 8]],
    ['an unknown packing', { packing: '4bit' }, [4, 8]],
    ['an empty weight', {}, [0, 8]],
    ['a nested scale that does not fit', { scale: { ...format, group: 3 } }, [4, 8]],
  ] as [string, Partial<Affine>, Matrix][])('%s', (_, change, shape) => {
    expect(() => affineCodec.parts(format, [4, 8])).not.toThrow();
    expect(() => affineCodec.parts({ ...format, ...change }, shape)).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED_FORMAT' }));
  });

  it.each([
    [-1, 2],
    [1, 5],
    [3, 2],
    [0.5, 2],
  ])('rows %d to %d of four', (from, to) => {
    const parts = Object.fromEntries(
      Object.entries(affineCodec.parts(format, [4, 8])).map(([name, spec]) => [
        name,
        { ...spec, data: new Uint8Array(name === 'codes' ? 16 : 8) },
      ]),
    );
    const tensor = { format, shape: [4, 8], parts } as const;
    expect(affineCodec.dequantize(tensor, { from: 1, to: 4 }).shape).toEqual([3, 8]);
    expect(() => affineCodec.dequantize(tensor, { from, to })).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
    expect(() => affineCodec.unpackRows(tensor, from, to)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
  });
});
