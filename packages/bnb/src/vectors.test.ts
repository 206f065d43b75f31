// Vectors computed from the rules alone, independently of any library: the generator G(n) is s = s * 1103515245 + 12345 mod 2^31 from 12345,
// giving f32((s / 2^31 - 0.5) * 0.2).

import { createHash } from 'node:crypto';
import { type Codebook, dequantize, FP4_TABLE, float32Tensor, NF4_TABLE, quantize, toFloat32 } from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import { dynamicMap } from './dynamic-map.ts';
import { fp4, nf4 } from './four-bit.ts';
import { int8 } from './int8.ts';
import { NF4_CELLS } from './tables.ts';

function generated(count: number): Float32Array {
  let s = 12345;
  return Float32Array.from({ length: count }, () => {
    s = (Math.imul(s, 1103515245) + 12345) & 0x7fffffff;
    return (s / 2 ** 31 - 0.5) * 0.2;
  });
}
const bytes = (data: Uint8Array | Float32Array): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
const sha = (data: Uint8Array | Float32Array): string => createHash('sha256').update(bytes(data)).digest('hex');
const hex = (data: Uint8Array): string => Buffer.from(data).toString('hex');
const words = (values: Float32Array): string[] =>
  [...new Uint32Array(values.buffer, values.byteOffset, values.length)].map((u) => u.toString(16));

describe('tables', () => {
  it('NF4, and its cuts', () => {
    expect(words(NF4_TABLE).join(' ')).toBe(
      'bf800000 bf3239b1 bf066b30 beca32a0 be91a24d be3d353f bdba7871 0 3da2faff 3e24cae3 3e7c04dd 3ead033a 3ee1a4b8 3f1007ab 3f3913b3 3f800000',
    );
    expect(words(Float32Array.from(NF4_CELLS.cuts)).join(' ')).toBe(
      'bf591cd8 bf1c5270 beeb8480 beadea76 be703cec be0d38bc bd3a7871 3d22faff 3df64862 3e5067e0 3e9582d4 3ec753f9 3f006d04 3f248daf 3f5c89da',
    );
  });

  it('FP4', () => {
    expect(words(FP4_TABLE.slice(0, 8)).join(' ')).toBe('0 3baaaaab 3f2aaaab 3f800000 3eaaaaab 3f000000 3e2aaaab 3e800000');
    expect([...FP4_TABLE.slice(8)]).toEqual([...FP4_TABLE.slice(0, 8)].map((value) => (value === 0 ? 0 : -value)));
  });

  it('the dynamic maps', () => {
    const signed = dynamicMap();
    expect(sha(signed)).toBe('035c4114538df2a03bbcb4d8a39b9325d26d84a00cf6cf29018d1a6608ab14c4');
    expect([signed[0], signed[127], signed[255]]).toEqual([Math.fround(-0.99296874), 0, 1]);
    for (let i = 0; i < 127; i++) expect(signed[126 - i]).toBe(-signed[128 + i]!);
    const unsigned = dynamicMap({ signed: false });
    expect([unsigned.length, unsigned[0], unsigned[255]]).toEqual([256, 0, 1]);
    expect([...unsigned]).toEqual([...new Set(unsigned)].sort((a, b) => a - b));
  });
});

describe('4 bits', () => {
  const weight = float32Tensor([3, 50], generated(150)); // rows cross blocks of 64; the last block has 22

  it('NF4', async () => {
    const q = await quantize(weight, nf4());
    expect(words(toFloat32(q.parts.scale!))).toEqual(['3dc7ceb9', '3dcb4811', '3db86786']);
    expect(hex(q.parts.codes!.data.subarray(0, 16))).toBe('b3b177a424e13bdfd68a2ccf36cc10d0');
    expect(hex(q.parts.codes!.data.subarray(-4))).toBe('bfefffb7');
    expect(sha(q.parts.codes!.data)).toBe('a6ab421463a1159ab4b7115d578101da7d44bfb7fcebdc15f23ae99b1232cce3');
    expect(sha(dequantize(q).data)).toBe('4cd483eda753a5927e7c4194e0118349709313d35ce28e59aa48a18d79889256');
  });

  it('FP4 with the thresholds of CUDA', async () => {
    const q = await quantize(weight, fp4({ thresholds: 'cuda' }));
    expect(hex(q.parts.codes!.data.subarray(0, 16))).toBe('4c4a197fdf2ac4232917d553ce55ab5b');
    expect(sha(q.parts.codes!.data)).toBe('97759e7edd091cd9e8043dfb5aa14e007cd9b4ee1f802d7e558d8db378b19abd');
    expect(sha(dequantize(q).data)).toBe('cf1319a426da88c8e7a8794dcd74d2fcd14499239cfff8e0fa236a6e16d740ea');
  });

  it('one short block', async () => {
    const row = float32Tensor([1, 8], [0.5, -1, 0.25, 0, 0.1, -0.3, 2, -2]);
    expect(hex((await quantize(row, nf4())).parts.codes!.data)).toBe('a29785f0');
    expect(hex((await quantize(row, fp4({ thresholds: 'cuda' }))).parts.codes!.data)).toBe('7d601e3b');
  });

  it('double quantization', async () => {
    const values = generated(19200).map((x, i) => x * (1 + (Math.floor(i / 64) % 7) / 8));
    const q = await quantize(float32Tensor([64, 300], values), nf4({ doubleQuant: true }));
    expect(sha(q.parts.codes!.data)).toBe('5888ab1eeb4af5a0d78ffea4ffc6abca87d2e7aa64422ec3949335a055f05a2f');
    expect([...toFloat32(q.parts['scale.offset']!)]).toEqual([0.13528692722320557]);
    expect([...toFloat32(q.parts['scale.scale']!)]).toEqual([0.03996880352497101, 0.04019588232040405]);
    expect([...q.parts['scale.codes']!.data.subarray(0, 8)]).toEqual([3, 29, 47, 80, 208, 231, 252, 7]);
    expect(sha(q.parts['scale.codes']!.data)).toBe('bcfc79df9806e8bdae7e830748d85cb045c57b36b8cc2d5a304c678739d02b14');
    expect(sha(dequantize(q).data)).toBe('de2097f977deb3e61c3254d8344e58727d21d41e03e1d984c30b0ef217acb301');
    expect(sha(dequantize(q, { dtype: 'bf16' }).data)).toBe('47142af9180223fa2772a1adfbdead9541eeb0d0884983657a2e14cec1684a5c');
    const { scale, offset } = q.format as Codebook;
    expect([scale, offset]).toMatchObject([{ kind: 'codebook', bits: 8, group: 256 }, true]);
  });
});

describe('LLM.int8', () => {
  it('rows', async () => {
    const q = await quantize(float32Tensor([3, 50], generated(150)), int8());
    expect([...toFloat32(q.parts.scale!)]).toEqual([0.0975341796875, 0.098876953125, 0.0992431640625]);
    expect([...new Int8Array(q.parts.codes!.data.buffer, 0, 8)]).toEqual([40, -51, 46, -102, 4, -3, 27, -34]);
    expect(sha(q.parts.codes!.data)).toBe('5d23cb36d57d52e6b68ee84d460a886aceb1a0217988c6dce7d0611e526f3254');
  });

  it('the weights of the worked example', async () => {
    const q = await quantize(float32Tensor([2, 4], [0.5, -0.25, 0.125, 1, -1, 0.75, 0.3, -0.2]), int8());
    expect([...new Int8Array(q.parts.codes!.data.buffer)]).toEqual([64, -32, 16, 127, -127, 95, 38, -25]);
    expect([...toFloat32(q.parts.scale!)]).toEqual([1, 1]);
  });
});
