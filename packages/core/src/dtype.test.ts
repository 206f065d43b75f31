import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  byteLength,
  castFloat,
  elementCount,
  elements,
  fromBf16,
  fromF16,
  readFloat32,
  roundTo,
  toBf16,
  toF16,
  toFloat32,
  writeFloat32,
} from './dtype.ts';
import { isLowbitError } from './spec/errors.ts';
import { float32Tensor, hostTensor } from './tensor.ts';

/** Nearest representable value by brute force over all bit patterns; ties to the even pattern. */
function nearest(value: number, widen: (bits: number) => number): Set<number> {
  let best = Number.POSITIVE_INFINITY;
  let found: number[] = [];
  for (let bits = 0; bits < 65536; bits++) {
    const candidate = widen(bits);
    if (!Number.isFinite(candidate) || (candidate === 0 && Object.is(candidate, -0) !== value < 0)) continue;
    const distance = Math.abs(candidate - value);
    if (distance < best) {
      best = distance;
      found = [bits];
    } else if (distance === best) found.push(bits);
  }
  return new Set(found.length > 1 ? found.filter((bits) => bits % 2 === 0) : found);
}

describe('f16', () => {
  it('round-trips every bit pattern', () => {
    for (let bits = 0; bits < 65536; bits++) {
      const value = fromF16(bits);
      if (Number.isNaN(value)) expect(Number.isNaN(fromF16(toF16(value)))).toBe(true);
      else expect(toF16(value)).toBe(bits);
    }
  });

  it('rounds to nearest, ties to even, like a brute-force search', () => {
    const ties = [1 + 2 ** -11, 1 + 3 * 2 ** -11, 2 ** -25, 3 * 2 ** -25, 65519, -2049, 2051, 2 ** -14 - 2 ** -25];
    for (const value of [...ties, 0.1, -3.3, 1e-7, 6e-8, 2.9e-8, 123.456, 6.1e-5]) {
      const x = Math.fround(value);
      expect([...nearest(x, fromF16)], String(value)).toContain(toF16(x));
    }
  });

  it('overflows to infinity from 65520 on and keeps NaN', () => {
    expect(fromF16(toF16(65519.99))).toBe(65504);
    expect(fromF16(toF16(65520))).toBe(Number.POSITIVE_INFINITY);
    expect(fromF16(toF16(-1e30))).toBe(Number.NEGATIVE_INFINITY);
    expect(fromF16(toF16(Number.NaN))).toBeNaN();
    expect(Object.is(fromF16(toF16(-0)), -0)).toBe(true);
  });
});

describe('bf16', () => {
  it('round-trips every finite bit pattern', () => {
    for (let bits = 0; bits < 65536; bits++) {
      const value = fromBf16(bits);
      if (!Number.isNaN(value)) expect(toBf16(value)).toBe(bits);
    }
  });

  it('rounds to nearest, ties to even', () => {
    for (const value of [1 + 2 ** -8, 1 + 3 * 2 ** -8, 0.1, -3.3e20, 1e-40]) {
      const x = Math.fround(value);
      expect([...nearest(x, fromBf16)], String(value)).toContain(toBf16(x));
    }
    expect(fromBf16(toBf16(3.4e38))).toBe(Number.POSITIVE_INFINITY);
    expect(fromBf16(toBf16(Number.NaN))).toBeNaN();
  });
});

describe('arrays', () => {
  it.each(['f64', 'f32', 'f16', 'bf16'] as const)('%s widens and narrows back exactly', (dtype) => {
    fc.assert(
      fc.property(fc.array(fc.float({ noNaN: true }), { maxLength: 50 }), (values) => {
        const exact = Float32Array.from(values, (v) => roundTo(dtype === 'f64' ? 'f32' : dtype, v));
        const stored = writeFloat32(dtype, exact);
        const back = new Float32Array(exact.length);
        readFloat32(dtype, stored, back);
        expect(back).toEqual(exact);
      }),
    );
  });

  it('reads at any byte offset, also from a Buffer', () => {
    const bytes = Buffer.alloc(9);
    bytes.writeFloatLE(1.5, 1);
    bytes.writeFloatLE(-2, 5);
    const view = bytes.subarray(1);
    expect([...elements({ dtype: 'f32', data: view })]).toEqual([1.5, -2]);
    expect([...toFloat32({ dtype: 'f32', shape: [2], data: view })]).toEqual([1.5, -2]);
  });

  it('widens integers', () => {
    expect([...toFloat32(hostTensor('i64', [2], BigInt64Array.of(-5n, 7n)))]).toEqual([-5, 7]);
    expect([...toFloat32(hostTensor('u8', [2], Uint8Array.of(0, 255)))]).toEqual([0, 255]);
    expect([...toFloat32(hostTensor('i16', [1], Int16Array.of(-300)))]).toEqual([-300]);
  });

  it('refuses what cannot be', () => {
    const code = (run: () => unknown) => {
      try {
        run();
      } catch (error) {
        return isLowbitError(error) ? error.code : error;
      }
      return undefined;
    };
    expect(code(() => castFloat(float32Tensor([1], [1]), 'u8'))).toBe('ERR_BAD_ARGUMENT');
    expect(code(() => hostTensor('f32', [3], new Float32Array(2)))).toBe('ERR_TENSOR_MISMATCH');
    expect(code(() => elementCount([2 ** 30, 2 ** 30]))).toBe('ERR_LIMIT');
    for (const shape of [[-2, -2], [1.5], [Number.NaN]]) expect(code(() => elementCount(shape))).toBe('ERR_BAD_ARGUMENT');
    expect(code(() => elements({ dtype: 'f99' as 'f32', data: new Uint8Array(4) }))).toBe('ERR_BAD_ARGUMENT');
    expect(byteLength({ dtype: 'bf16', shape: [3, 5] })).toBe(30);
    expect(byteLength({ dtype: 'f32', shape: [] })).toBe(4);
  });
});
