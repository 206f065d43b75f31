import { dequantize, float32Tensor, type HostTensor, type Importance, quantize, toFloat32 } from '@lowbit/core';
import { quantizerConformance, seeded, seededFloats } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { fp4, nf4 } from './four-bit.ts';
import type { Nf4Options } from './options.ts';

const shapes = [
  [16, 64],
  [7, 50],
  [3, 33],
] as const;
quantizerConformance(nf4({ scale: 'search' }), { describe, it }, { shapes });
quantizerConformance(fp4({ scale: 'search', doubleQuant: true }), { describe, it }, { shapes });

/** Bell-shaped weights. */
function bell(count: number, seed: number): Float32Array {
  const next = seeded(seed);
  return Float32Array.from({ length: count }, () => (next() + next() + next() + next() - 2) * (next() < 0.02 ? 0.1 : 0.03));
}

const weight = float32Tensor([64, 96], bell(64 * 96, 8));
const importance: Importance = {
  kind: 'diagonal',
  moments: float32Tensor(
    [96],
    Float32Array.from(seededFloats(2, 96), (x) => Math.exp(4 * x)),
  ),
  rows: 1,
};

async function error(
  make: typeof nf4,
  options: Nf4Options,
  use?: Importance,
  measure?: Importance,
  of: HostTensor = weight,
): Promise<number> {
  const numbers = toFloat32(dequantize(await quantize(of, make(options), { importance: use })));
  const moments = measure && toFloat32(measure.moments);
  return toFloat32(of).reduce((sum, w, i) => sum + (moments?.[i % moments.length] ?? 1) * (w - numbers[i]!) ** 2, 0);
}

describe.each([
  ['nf4', nf4, 0.93],
  ['fp4', fp4, 0.9],
] as const)('scales of %s by search', (_, make, most) => {
  it.each([false, true])('have the smaller error, in the same format (double quantization: %s)', async (doubleQuant) => {
    expect(make({ doubleQuant, scale: 'search' }).format([64, 96], 'f16')).toEqual(make({ doubleQuant }).format([64, 96], 'f16'));
    const ratio = (await error(make, { doubleQuant, scale: 'search' })) / (await error(make, { doubleQuant }));
    expect(ratio).toBeLessThan(most);
  });

  it('weigh errors by the importance of the channel', async () => {
    const [weighed, plain] = [importance, undefined].map((use) => error(make, { scale: 'search' }, use, importance));
    expect(await weighed!).toBeLessThan(0.97 * (await plain!));
    const absmax = await quantize(weight, make({}));
    expect(await quantize(weight, make({}), { importance })).toEqual(absmax); // the original, whatever is known
  });

  it('are within a thousandth of the best scale that trying a thousand finds', async () => {
    const block = float32Tensor([1, 64], bell(64, 77));
    const found = await error(make, { scale: 'search' }, undefined, undefined, block);
    const values = toFloat32(block);
    const table = [...toFloat32((await quantize(block, make({}))).parts.table!)];
    const largest = Math.max(...values.map(Math.abs));
    let best = Number.POSITIVE_INFINITY;
    for (let i = 500; i < 1500; i++) {
      const scale = (largest * i) / 1000;
      const sum = values.reduce((total, value) => total + Math.min(...table.map((point) => (value - point * scale) ** 2)), 0);
      best = Math.min(best, sum);
    }
    expect(found).toBeLessThan(1.001 * best);
  });

  it('of zeros and of one number are exact', async () => {
    const flat = float32Tensor(
      [2, 64],
      Float32Array.from({ length: 128 }, (_, i) => (i < 64 ? 0 : 0.25)),
    );
    expect(await error(make, { scale: 'search' }, undefined, undefined, flat)).toBeLessThan(1e-12);
  });
});

it('refuses what it cannot do', () => {
  expect(() => nf4({ scale: 'search', allowNonFinite: true })).toThrow(/scale is searched among numbers/);
  expect(() => nf4({ scale: 'mean' as 'search' })).toThrow(/scale cannot be "mean"/);
  expect(nf4({ scale: 'search' }).identity).not.toBe(nf4().identity);
  expect(nf4().identity).not.toContain('absmax');
});
