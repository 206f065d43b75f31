import { describe, expect, it } from 'vitest';
import { elements } from '../dtype.ts';
import type { Custom, FormatCodec } from '../spec/format.ts';
import { float32Tensor, hostTensor } from '../tensor.ts';
import { affineCodec, BUILTIN_CODECS, codebookCodec, codecFor, denseCodec, int8Codec } from './index.ts';

describe('codecFor', () => {
  const custom: Custom = { kind: 'acme:ternary', params: {} };
  const codec = { ...denseCodec, kind: custom.kind } as unknown as FormatCodec;

  it('finds the built-in codecs and those passed in', () => {
    expect(codecFor({ kind: 'dense', dtype: 'f32' })).toBe(denseCodec);
    expect(BUILTIN_CODECS).toEqual([denseCodec, affineCodec, codebookCodec, int8Codec]);
    expect(codecFor(custom, [codec])).toBe(codec);
  });

  it('refuses a kind that nothing reads', () => {
    expect(() => codecFor(custom)).toThrow(
      expect.objectContaining({
        code: 'ERR_UNSUPPORTED_FORMAT',
        message: expect.stringContaining('acme:ternary'),
        hint: expect.stringContaining('affine'),
      }),
    );
  });
});

describe('denseCodec', () => {
  const tensor = {
    format: { kind: 'dense', dtype: 'f32' },
    shape: [3, 2],
    parts: { weight: float32Tensor([3, 2], [1, 2, 3, 4.1, 5, 70000]) },
  } as const;

  it('gives rows in any float dtype', () => {
    expect([...elements(denseCodec.dequantize(tensor, { from: 1, to: 2 }))]).toEqual([3, Math.fround(4.1)]);
    expect(denseCodec.dequantize(tensor, { from: 1, dtype: 'f16' })).toEqual(
      hostTensor('f16', [2, 2], Uint16Array.of(0x4200, 0x441a, 0x4500, 0x7c00)),
    );
    const half = {
      format: { kind: 'dense', dtype: 'bf16' },
      shape: [1, 2],
      parts: { weight: hostTensor('bf16', [1, 2], Uint16Array.of(0x3f80, 0xc000)) },
    } as const;
    expect(denseCodec.dequantize(half)).toEqual(float32Tensor([1, 2], [1, -2]));
  });

  it('has no codes, and refuses rows it does not have', () => {
    expect(() => denseCodec.unpackRows(tensor, 0, 1)).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED_FORMAT' }));
    expect(() => denseCodec.dequantize(tensor, { to: 4 })).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
    expect(() => denseCodec.parts(tensor.format, [3, 0])).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED_FORMAT' }));
  });
});
