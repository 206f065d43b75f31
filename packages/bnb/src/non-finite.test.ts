// NaN and infinity, allowed: as bitsandbytes 0.50.2 on the CPU (fixtures/golden/bnb/make/non_finite.py), and what is said of the error.

import {
  castFloat,
  createRuntime,
  dequantize,
  float32Tensor,
  type HostTensor,
  memoryReader,
  type Quantizer,
  quantize,
  referenceBackend,
  toFloat32,
} from '@lowbit/core';
import { seededFloats } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { goldenJson } from '../../../fixtures/golden.ts';
import { fp4, nf4 } from './four-bit.ts';
import { int8 } from './int8.ts';
import { Linear4bit } from './linear-4bit.ts';
import { Linear8bitLt } from './linear-8bit.ts';

type Written = number | 'nan' | 'inf' | '-inf';
interface Case {
  readonly method: 'nf4' | 'fp4' | 'int8';
  readonly nested?: boolean;
  readonly count: number;
  readonly put: Readonly<Record<string, Written>>;
  readonly packed?: readonly number[];
  readonly codes?: readonly number[];
  readonly offset?: Written;
  readonly absmax: readonly Written[];
  readonly dequantized: readonly Written[];
}
const { cases } = goldenJson<{ cases: Case[] }>('bnb/non-finite.json');
const SPECIAL: Readonly<Record<string, number>> = { nan: Number.NaN, inf: Number.POSITIVE_INFINITY, '-inf': Number.NEGATIVE_INFINITY };
const numberOf = (written: Written): number => (typeof written === 'number' ? written : SPECIAL[written]!);
/** Zeros compare equal whatever their sign. */
const numbers = (list: Iterable<Written>): number[] => Array.from(list, (written) => numberOf(written) + 0);

const make: Readonly<Record<Case['method'], (options: { allowNonFinite: boolean; doubleQuant?: boolean }) => Quantizer>> = {
  nf4,
  fp4,
  int8: ({ allowNonFinite }) => int8({ allowNonFinite }),
};
const quantizerOf = ({ method, nested = false }: Case, allowNonFinite: boolean): Quantizer =>
  make[method]({ allowNonFinite, doubleQuant: nested });

function weightOf({ method, count, put }: Case): HostTensor {
  const rows = method === 'int8' ? 3 : 1;
  const values = Float32Array.from({ length: rows * count }, (_, i) => ((((i % count) * 37) % 101) - 50) / 64);
  const first = method === 'int8' ? count : 0;
  for (const [i, written] of Object.entries(put)) values[first + Number(i)] = numberOf(written);
  return float32Tensor([rows, count], values);
}
const titled = cases.map((c) => [`${c.method}${c.nested ? ' nested' : ''} of ${c.count} with ${JSON.stringify(c.put)}`, c] as const);

/** The error that the quantizer reports. */
const reported = (weight: HostTensor, quantizer: Quantizer) =>
  quantizer.quantize(
    memoryReader('w', weight),
    quantizer.format(weight.shape as never, 'f32'),
    { write: async () => {} },
    { budget: 1 << 20 },
  );

describe('weights that are not finite', () => {
  it('are all there', () => expect(cases.length).toBe(24));

  it.each(titled)('%s', async (_, c) => {
    const weight = weightOf(c);
    await expect(quantize(weight, quantizerOf(c, false))).rejects.toMatchObject({ code: expect.stringMatching(/NON_FINITE|OVERFLOW/) });
    const quantizer = quantizerOf(c, true);
    const q = await quantize(weight, quantizer);
    if (c.method === 'int8') {
      expect([...new Int8Array(q.parts.codes!.data.buffer)]).toEqual(c.codes);
      expect(numbers(toFloat32(q.parts.scale!))).toEqual(numbers(c.absmax));
    } else {
      expect([...q.parts.codes!.data]).toEqual(c.packed);
      expect(numbers(toFloat32(q.parts[c.nested ? 'scale.scale' : 'scale']!))).toEqual(numbers(c.absmax));
      if (c.nested) {
        expect([...q.parts['scale.codes']!.data]).toEqual(c.codes);
        expect(numbers(toFloat32(q.parts['scale.offset']!))).toEqual(numbers([c.offset!]));
      }
    }
    expect(numbers(toFloat32(dequantize(q)))).toEqual(numbers(c.dequantized));
  });

  it.each(titled)('%s: the error is that of what is finite, and says of how many it is not', async (_, c) => {
    const weight = weightOf(c);
    const quantizer = quantizerOf(c, true);
    const error = await reported(weight, quantizer);
    const back = toFloat32(dequantize(await quantize(weight, quantizer)));
    const given = toFloat32(weight);
    // Whole blocks and rows: an infinite weight of a block is itself restored as infinity.
    const unit = c.method === 'int8' ? c.count : c.nested ? given.length : 64;
    const spoilt = (i: number): boolean => {
      const from = Math.floor(i / unit) * unit;
      return back.subarray(from, from + unit).some((value) => !Number.isFinite(value));
    };
    const kept = [...given.keys()].filter((i) => !spoilt(i));
    expect(error.nonFinite).toBe(given.length - kept.length);
    expect(error.squaredWeight).toBeCloseTo(
      kept.reduce((sum, i) => sum + given[i]! ** 2, 0),
      9,
    );
    expect(error.squaredError).toBeCloseTo(
      kept.reduce((sum, i) => sum + (given[i]! - back[i]!) ** 2, 0),
      9,
    );
    expect(error.maxAbs).toBe(Math.max(0, ...kept.map((i) => Math.abs(given[i]! - back[i]!))));
  });

  it('in bf16 and large, and nothing else changes', async () => {
    const values = seededFloats(3, 300 * 515, 0.1);
    values[7 * 515 + 3] = Number.NaN;
    const weight = castFloat(float32Tensor([300, 515], values), 'bf16');
    const finite = castFloat(float32Tensor([300, 515], values.with(7 * 515 + 3, 0)), 'bf16');
    const [row, block] = [7 * 515, Math.floor((7 * 515 + 3) / 64) * 32];
    for (const [method, first, size] of [
      ['nf4', block, 32],
      ['int8', row, 515],
    ] as const) {
      const allowed = make[method]({ allowNonFinite: true });
      const refused = make[method]({ allowNonFinite: false });
      const spoilt = (await quantize(weight, allowed)).parts.codes!.data;
      const whole = (await quantize(finite, refused)).parts.codes!.data;
      for (const [from, to] of [
        [0, first],
        [first + size, whole.length],
      ] as const)
        expect(spoilt.subarray(from, to)).toEqual(whole.subarray(from, to));
      expect((await reported(weight, allowed)).nonFinite).toBe(method === 'nf4' ? 64 : 515);
      expect(await reported(finite, allowed)).toEqual(await reported(finite, refused));
      expect(allowed.identity).toBe(refused.identity);
      expect(allowed.config).toEqual(refused.config);
    }
  });

  it('the option is checked', () => {
    for (const factory of [nf4, fp4, int8]) {
      for (const value of ['yes', 1, null]) {
        expect(() => factory({ allowNonFinite: value as never })).toThrow(
          expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', message: expect.stringContaining('allowNonFinite') }),
        );
      }
    }
    expect(() => fp4({ thresholds: 'cuda', allowNonFinite: true })).toThrow(
      expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', hint: expect.stringMatching(/./) }),
    );
  });
});

describe('layers of them', () => {
  const weight = float32Tensor(
    [2, 64],
    Float32Array.from({ length: 128 }, (_, i) => (i === 70 ? Number.NaN : 1)),
  );
  const x = float32Tensor([1, 64], new Float32Array(64).fill(1));

  it.each(['plain', 'nested', 'int8'] as const)('%s: made, saved, read and run', async (kind) => {
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    const options = { runtime, allowNonFinite: true };
    const create = (more: object) =>
      kind === 'int8'
        ? Linear8bitLt.create({ weight }, { runtime, ...more })
        : Linear4bit.create({ weight }, { runtime, compressStatistics: kind === 'nested', ...more });
    const read = (state: ReturnType<Linear4bit['stateDict']>, more: object) =>
      kind === 'int8' ? Linear8bitLt.fromStateDict(state, { runtime, ...more }) : Linear4bit.fromStateDict(state, { runtime, ...more });
    await expect(create({})).rejects.toMatchObject({ code: 'ERR_NON_FINITE' });
    using layer = await create(options);
    const state = layer.stateDict();
    await expect(read(state, {})).rejects.toMatchObject({ code: 'ERR_NON_FINITE', hint: expect.stringContaining('allowNonFinite') });
    using again = await read(state, options);
    expect(again.stateDict()).toEqual(state);
    const y = [...toFloat32(await again.apply(x))];
    expect(y.map(Number.isNaN)).toEqual([kind === 'nested', true]);
  });
});
