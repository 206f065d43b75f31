// Mixtures of experts in every format that has a way of its own, against the reference.
import { type Backend, type Format, referenceBackend, toFloat32 } from '@lowbit/core';
import { sampleWeight } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../../../fixtures/fake-cuda.ts';
import { needs } from '../../../fixtures/needs.ts';
import { type TinyDecoder, tinyDecoder } from '../../../fixtures/tiny-decoder.ts';
import { cuda } from './cuda.ts';

async function logits(backend: Backend, { program, weights }: TinyDecoder): Promise<Float32Array> {
  const linears = [];
  for (const [i, { use }] of program.linears.entries()) linears.push(await backend.prepare(weights[i]!, { use }));
  using executable = await backend.compile(program, linears, { contextLength: 32 });
  const id = executable.open();
  const tokens = Uint32Array.of(3, 14, 15, 9, 26);
  const { logits: rows } = await executable.step([{ id, tokens, wanted: Uint32Array.of(0, 1, 2, 3, 4) }]);
  return toFloat32(rows!);
}

const affine = { kind: 'affine', levels: 16, group: 32, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' } as const;
const rotated = { kind: 'codebook', bits: 4, dim: 2, group: 64, table: 't', scale: 'f32', packing: 'u8' } as const;
const single = { kind: 'codebook', bits: 4, dim: 1, group: 64, table: 't', scale: 'f32', packing: 'row_bits4' } as const;
const nf4 = { kind: 'codebook', bits: 4, dim: 1, group: 32, table: 'nf4', scale: 'f32', packing: 'bnb_nibble' } as const;
const int8: Format = { kind: 'int8', threshold: 0 };

describe('experts', () => {
  it.for<readonly [string, Format, number]>([
    ['affine', affine, 1e-3],
    ['rotated', { ...rotated, rotate: { kind: 'hadamard', block: 32 } }, 1e-3],
    ['rotated, in a basis of their own for each 64', { ...rotated, scale: 'f16', rotate: { kind: 'hadamard', block: 64 } }, 1e-3],
    ['rotated, of single codes of 4 bits', { ...single, rotate: { kind: 'hadamard', block: 64 } }, 1e-3],
    ['affine of 3 bits', { ...affine, levels: 8, packing: '3bit_32' }, 1e-3],
    ['NF4', nf4, 1e-3],
    ['groups of 8, which no fast product takes', { ...affine, group: 8 }, 1e-3],
    ['int8', int8, 1e-3],
  ])('%s', async ([, format, tolerance], context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    pretend();
    await using reference = await referenceBackend().open();
    await using backend = await cuda({ driver: FAKE_DRIVER }).open();
    const decoder = tinyDecoder(format, { experts: 5 });
    const [got, expected] = [await logits(backend, decoder), await logits(reference, decoder)];
    const largest = Math.max(...expected.map(Math.abs));
    for (const [i, value] of expected.entries()) expect(Math.abs(got[i]! - value)).toBeLessThanOrEqual(tolerance * largest);
  });

  it('of formats that read their input in different ways are refused', async (context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    pretend();
    await using backend = await cuda({ driver: FAKE_DRIVER }).open();
    const decoder = tinyDecoder(affine, { experts: 3 });
    const weights = decoder.weights.map((weight, i) => (i === 6 ? sampleWeight(int8, weight.shape) : weight));
    await expect(logits(backend, { ...decoder, weights })).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED_FORMAT' });
  });
});
