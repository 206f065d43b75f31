import { describe, expect, it } from 'vitest';
import { codecFor } from './codecs/index.ts';
import { toFloat32 } from './dtype.ts';
import { bitsPerWeight, dequantize, quantizationError, validateQuantized } from './quantized.ts';
import type { Affine, Codebook, Custom, FormatCodec, QuantizedTensor } from './spec/format.ts';
import { float32Tensor, hostTensor } from './tensor.ts';

const format: Affine = { kind: 'affine', levels: 256, group: null, axis: 1, scale: 'f32', zero: 'f16', packing: '8bit_u8' };
const tensor: QuantizedTensor<Affine> = {
  format,
  shape: [2, 3],
  parts: {
    codes: hostTensor('u8', [2, 3], Uint8Array.of(0, 1, 2, 3, 4, 5)),
    scale: float32Tensor([2, 1], [0.5, 2]),
    zero: hostTensor('f16', [2, 1], Uint16Array.of(0x3c00, 0)), // 1, 0
  },
};

const custom: Custom = { kind: 'acme:ones', params: {} };
const ones: FormatCodec = {
  kind: 'acme:ones',
  parts: (_, shape) => ({ seed: { dtype: 'u8', shape: [shape[0]] } }),
  unpackRows: () => float32Tensor([0], []),
  numbers: () => undefined,
  dequantize: ({ shape }, { from = 0, to = shape[0] } = {}) =>
    float32Tensor([to - from, shape[1]], new Array((to - from) * shape[1]).fill(1)),
};
const customTensor: QuantizedTensor = { format: custom, shape: [2, 2], parts: { seed: hostTensor('u8', [2], new Uint8Array(2)) } };

describe('dequantize', () => {
  it('gives f32 by default, and rows and dtypes on request', () => {
    expect(dequantize(tensor)).toEqual(float32Tensor([2, 3], [-0.5, 0, 0.5, 6, 8, 10]));
    expect(dequantize(tensor, { from: 1, dtype: 'bf16' })).toEqual(hostTensor('bf16', [1, 3], Uint16Array.of(0x40c0, 0x4100, 0x4120)));
  });

  it('takes codecs of custom formats', () => {
    expect([...toFloat32(dequantize(customTensor, { codecs: [ones] }))]).toEqual([1, 1, 1, 1]);
    expect(() => dequantize(customTensor)).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED_FORMAT' }));
  });
});

describe('quantizationError', () => {
  it('measures mean square, largest difference and signal to noise', () => {
    const weight = float32Tensor([2, 3], [-0.5, 0, 0.5, 6, 8.5, 8]);
    const error = quantizationError(weight, tensor);
    expect(error.mse).toBeCloseTo((0.25 + 4) / 6, 12);
    expect(error.maxAbs).toBe(2);
    expect(error.snrDb).toBeCloseTo(10 * Math.log10((0.5 + 36 + 72.25 + 64) / 4.25), 12);
    expect(quantizationError(float32Tensor([2, 3], [-0.5, 0, 0.5, 6, 8, 10]), tensor)).toEqual({ mse: 0, maxAbs: 0, snrDb: Infinity });
    expect(quantizationError(float32Tensor([2, 2], [1, 1, 0, 1]), customTensor, { codecs: [ones] }).mse).toBe(0.25);
  });

  it('sees every row of a weight of several blocks', () => {
    const [out, inp] = [1500, 400]; // blocks are of 655 rows
    const values = Float32Array.from({ length: out * inp }, (_, i) => i % 7);
    const dense: QuantizedTensor = {
      format: { kind: 'dense', dtype: 'f32' },
      shape: [out, inp],
      parts: { weight: hostTensor('f32', [out, inp], values) },
    };
    for (const row of [0, 654, 655, 1499]) {
      const other = values.slice();
      other[row * inp + 399]! += 3;
      expect(quantizationError(hostTensor('f32', [out, inp], other), dense)).toMatchObject({ mse: 9 / (out * inp), maxAbs: 3 });
    }
  });

  it('refuses a weight of another shape', () => {
    for (const shape of [[3, 2], [6], [2, 4]]) {
      const weight = float32Tensor(shape, new Array(shape.reduce((a, b) => a * b)).fill(0));
      expect(() => quantizationError(weight, tensor)).toThrow(expect.objectContaining({ code: 'ERR_TENSOR_MISMATCH' }));
    }
  });
});

describe('sizes', () => {
  it('count all parts', () => {
    expect(bitsPerWeight(format, [2, 3])).toBe((18 * 8) / 6);
    expect(bitsPerWeight({ ...format, levels: 16, group: 64, scale: 'f16', packing: '4bit_u8' }, [4096, 4096])).toBe(4.5);
    expect(bitsPerWeight(custom, [2, 2], { codecs: [ones] })).toBe(4);
    // bitsandbytes' double quantization: 4 + 8/64 + 32/16384, and its two tables and offset.
    const map: Codebook = { kind: 'codebook', bits: 8, dim: 1, group: 256, table: 'dynamic', scale: 'f32', packing: 'u8' };
    const nf4: Codebook = { kind: 'codebook', bits: 4, dim: 1, group: 64, table: 'nf4', scale: map, offset: true, packing: 'bnb_nibble' };
    expect(bitsPerWeight(nf4, [4096, 4096])).toBeCloseTo(4 + 8 / 64 + 32 / 16384 + (32 * (16 + 256 + 1)) / 4096 ** 2, 12);
  });
});

describe('validateQuantized', () => {
  it('accepts a whole tensor', () => {
    expect(() => validateQuantized(tensor)).not.toThrow();
    expect(() => validateQuantized(customTensor, { codecs: [ones] })).not.toThrow();
  });

  it.each([
    ['missing', 'zero', undefined],
    ['of another dtype', 'scale', hostTensor('f16', [2, 1], new Uint16Array(2))],
    ['of another shape', 'scale', float32Tensor([1, 2], [1, 2])],
    ['of another rank', 'scale', float32Tensor([2], [1, 2])],
    ['short of bytes', 'codes', { dtype: 'u8', shape: [2, 3], data: new Uint8Array(5) }],
  ] as const)('names a part that is %s', (_, part, value) => {
    const parts = { ...tensor.parts };
    if (value) parts[part] = value;
    else delete parts[part];
    const mismatch = expect.objectContaining({
      code: 'ERR_TENSOR_MISMATCH',
      message: expect.stringContaining(`'${part}'`),
      details: expect.objectContaining({ part, expected: expect.anything() }),
    });
    expect(() => validateQuantized({ ...tensor, parts })).toThrow(mismatch);
    expect(() => dequantize({ ...tensor, parts })).toThrow(mismatch);
    expect(() => codecFor(format).unpackRows({ ...tensor, parts }, 0, 1)).toThrow(mismatch);
  });
});
