// Quantized scales and zeros, against layers that hqq 0.1.8 made.

import {
  bitsPerWeight,
  dequantize,
  float32Tensor,
  type HostTensor,
  isLowbitError,
  type Matrix,
  quantizationError,
  quantize,
} from '@lowbit/core';
import { quantizerConformance, seededFloats } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { goldenJson, goldenTensors } from '../../../fixtures/golden.ts';
import { hqq } from './hqq.ts';
import type { HqqBits } from './options.ts';
import { servedRoutines } from './routines.ts';

interface MetaParams {
  group_size: number | null;
}
interface Case {
  name: string;
  file: string;
  shape: Matrix;
  config: {
    compute_dtype: 'f16' | 'bf16' | 'f32';
    quant_config: {
      weight_quant_params: { nbits: HqqBits; group_size: number | null; axis: 0 | 1; round_zero: boolean };
      scale_quant_params: MetaParams | null;
      zero_quant_params: MetaParams | null;
    };
  };
  tensors: Record<string, string>;
}

const tensors = goldenTensors('hqq/old-0.1.8/layers.safetensors');
const cases = goldenJson<{ cases: Case[] }>('hqq/old-0.1.8/cases.json').cases.filter((c) => c.file === 'layers.safetensors');

/** Tensors of a Python layer by part of ours. With offload_meta zeros and scales are stacked, zeros first. */
function published(c: Case): Record<string, Uint8Array> {
  const get = (name: string): Uint8Array | undefined => tensors.get(c.tensors[`state/${name}`] ?? '')?.data;
  const stacked = get('meta.zero_scale');
  const half = stacked && stacked.length / 2;
  const one = (what: 'scale' | 'zero'): Record<string, Uint8Array | undefined> => {
    const offloaded = stacked && (what === 'zero' ? stacked.subarray(0, half) : stacked.subarray(half));
    if (!get(`meta.meta_${what}.scale`)) return { [what]: offloaded ?? get(`meta.${what}`) };
    return {
      [`${what}.codes`]: offloaded ?? get(`meta.${what}_q`),
      [`${what}.scale`]: get(`meta.meta_${what}.scale`),
      [`${what}.zero`]: get(`meta.meta_${what}.zero`),
    };
  };
  return { codes: get('W_q'), ...one('scale'), ...one('zero') } as Record<string, Uint8Array>;
}

describe('layers of hqq 0.1.8', () => {
  it('of every kind', () => expect(cases.length).toBeGreaterThanOrEqual(10));

  it.each(cases)('$name', async (c) => {
    const { weight_quant_params: w, scale_quant_params, zero_quant_params } = c.config.quant_config;
    const quantizer = hqq({
      bits: w.nbits,
      groupSize: w.group_size,
      axis: w.axis,
      roundZero: w.round_zero,
      release: '0.1.8',
      quantScale: scale_quant_params !== null,
      quantZero: zero_quant_params !== null && (zero_quant_params.group_size === null || 'groups'),
    });
    const metaDtype = c.config.compute_dtype;
    const q = await quantize(tensors.get(c.tensors.weight!)!, quantizer, { metaDtype });
    const expected = published(c);
    expect(Object.keys(q.parts).sort()).toEqual(Object.keys(expected).sort());
    // Bit for bit, though zeros come out of sums in another order: they happen to round alike here.
    for (const [name, part] of Object.entries(q.parts)) expect(part.data, name).toEqual(new Uint8Array(expected[name]!));
    const numbers = dequantize(q, { dtype: metaDtype });
    expect(numbers.data).toEqual(new Uint8Array(tensors.get(c.tensors['expected.dequantized']!)!.data));
  });
});

describe('quantized meta-data', () => {
  const shape: Matrix = [128, 256];
  const weight: HostTensor = float32Tensor(shape, seededFloats(3, 128 * 256, 0.04));

  it('saves what it should, at little cost', async () => {
    const plain = hqq({ bits: 2, groupSize: 16, solver: 'least-squares' });
    const both = hqq({ bits: 2, groupSize: 16, solver: 'least-squares', quantScale: true, quantZero: true });
    expect(bitsPerWeight(plain.format(shape, 'f16'), shape)).toBe(2 + 32 / 16);
    expect(bitsPerWeight(both.format(shape, 'f16'), shape)).toBeCloseTo(2 + 16 / 16 + 32 / 128 / 16 + 32 / (128 * 256), 12);
    const [a, b] = [await quantize(weight, plain), await quantize(weight, both)].map((q) => quantizationError(weight, q).mse);
    expect(b! / a!).toBeLessThan(1.02);
  });

  it('refuses scales that 128 does not divide, naming their number', () => {
    const thrown = (run: () => unknown) => {
      try {
        run();
      } catch (error) {
        return isLowbitError(error) ? `${error.code} ${error.message}` : String(error);
      }
      return 'nothing';
    };
    expect(thrown(() => hqq({ quantScale: true }).format([64, 64], 'f16'))).toMatch(
      /^ERR_UNSUPPORTED_FORMAT hqq: 64 scales .* groups of 128/,
    );
    expect(thrown(() => hqq({ quantZero: true }).format([64, 64], 'f16'))).toBe('nothing');
    expect(thrown(() => hqq({ quantZero: 'all' as 'groups' }))).toMatch(/^ERR_BAD_ARGUMENT hqq: quantZero cannot be all/);
  });
});

const runner = { describe, it };
const shapes: Matrix[] = [
  [64, 128],
  [40, 256],
];
const routines = servedRoutines();
quantizerConformance(hqq({ groupSize: 64, quantZero: true }), runner, { shapes, routines });
quantizerConformance(hqq({ bits: 3, groupSize: 16, axis: 0, quantScale: true, quantZero: 'groups', solver: 'least-squares' }), runner, {
  shapes: [shapes[0]!, [32, 256]],
  routines,
});
