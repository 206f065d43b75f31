import { type Affine, type Format, FP4_TABLE, NF4_TABLE } from '@lowbit/core';
import { formatSamples } from '@lowbit/testing';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { canOffload, planLayout, quickTable, sections } from './layout.ts';

const affine = (levels: number, packing: string, rest: Partial<Affine> = {}): Affine => ({
  ...{ kind: 'affine', levels, group: 64, axis: 1, scale: 'f16', zero: 'f16', packing },
  ...rest,
});
const bitsOf = (format: Format): number => {
  const layout = planLayout(format, [4096, 4096], []);
  return (8 * (sections(layout, { offload: false }).deviceBytes - 128)) / 4096 ** 2;
};

describe('layout', () => {
  it('takes the bits of the format, and 128 bytes', () => {
    expect(bitsOf(affine(256, '8bit_u8'))).toBe(8.5);
    expect(bitsOf(affine(16, '4bit_u8'))).toBe(4.5);
    expect(bitsOf(affine(16, '4bit_u8', { axis: 0 }))).toBe(4.5);
    expect(bitsOf(affine(8, '3bit_32'))).toBe(3.5);
    expect(bitsOf(affine(4, '2bit_u8'))).toBe(2.5);
    expect(bitsOf(affine(2, '1bit_u8'))).toBe(1.5);
    const nf4 = { kind: 'codebook', bits: 4, dim: 1, group: 64, table: 'nf4', scale: 'f32', packing: 'bnb_nibble' } as const;
    expect(bitsOf(nf4)).toBeCloseTo(4.5, 3);
    const higgs = (bits: number): Format => ({
      ...{ kind: 'codebook', bits, dim: 2, group: 256, table: 'higgs', scale: 'f16', packing: `flute${bits}_p2_t32` },
      rotate: { kind: 'hadamard', block: 512 },
    });
    expect(bitsOf(higgs(4))).toBeCloseTo(4.0625, 2);
    expect(bitsOf(higgs(3))).toBeCloseTo(3.0625, 2);
    expect(bitsOf(higgs(2))).toBeCloseTo(2.0625, 2);
    expect(bitsOf({ kind: 'dense', dtype: 'bf16' })).toBe(16);
    expect(bitsOf({ kind: 'int8', threshold: 6 })).toBeCloseTo(8, 1);
  });

  it('leaves codes alone on the device where scales are offloaded', () => {
    for (const { weight } of formatSamples()) {
      const layout = planLayout(weight.format, weight.shape, []);
      if (!canOffload(layout)) continue;
      const [here, there] = [sections(layout, { offload: false }), sections(layout, { offload: true })];
      expect(there.deviceBytes).toBe(128 + Math.ceil(layout.codeBytes / 16) * 16);
      expect(there.deviceBytes + there.hostBytes).toBe(here.deviceBytes);
      expect(there.hostBytes).toBeGreaterThan(0);
    }
  });

  it('takes weights to the fast products where blocks of 32 inputs share a scale', () => {
    const quick = (format: Format, inp = 4096): string | undefined => planLayout(format, [64, inp], []).quick;
    expect(quick(affine(16, '4bit_u8'))).toBe('affine');
    expect(quick(affine(16, '4bit_u8', { group: 16 }))).toBeUndefined();
    expect(quick(affine(16, '4bit_u8', { axis: 0 }))).toBeUndefined();
    expect(quick(affine(8, '3bit_32'))).toBe('affine');
    expect(quick(affine(2, '1bit_u8', { group: 32 }))).toBe('affine');
    expect(quick(affine(16, '4bit_u8'), 4096 + 32)).toBeUndefined();
    // What is rotated is multiplied in floating point, whatever its scale: it runs together with what comes before it then.
    const single = { kind: 'codebook', bits: 4, dim: 1, group: 64, table: 't', scale: 'f32', packing: 'row_bits4' } as const;
    expect(quick(single)).toBe('table');
    expect(quick({ ...single, rotate: { kind: 'hadamard', block: 512 } })).toBeUndefined();
  });

  it('refuses what kernels do not count or hold', () => {
    const refused = expect.objectContaining({ code: 'ERR_UNSUPPORTED_FORMAT' });
    expect(() => planLayout({ kind: 'dense', dtype: 'i8' }, [8, 8], [])).toThrow(refused);
    expect(() => planLayout({ kind: 'dense', dtype: 'f32' }, [2 ** 31, 8], [])).toThrow(refused);
    expect(() => planLayout({ kind: 'int8', threshold: 6 }, [8, 2 ** 17 + 1], [])).toThrow(refused);
    const long: Format = {
      ...{ kind: 'codebook', bits: 4, dim: 1, group: 64, table: 't', scale: 'f32', packing: 'u8' },
      rotate: { kind: 'hadamard', block: 16384 },
    };
    expect(() => planLayout(long, [8, 16384], [])).toThrow(refused);
  });
});

describe('quickTable', () => {
  const back = (bytes: Uint8Array): readonly number[] => {
    const view = new DataView(bytes.buffer);
    return Array.from({ length: 16 }, (_, i) => (256 * view.getInt8(i) + view.getInt8(16 + i)) * view.getFloat32(32, true));
  };

  it('holds 16 numbers to 2^-16 of the largest', () => {
    const numbers = fc.float({ min: -1e6, max: 1e6, noNaN: true, noDefaultInfinity: true });
    fc.assert(
      fc.property(fc.array(numbers, { minLength: 16, maxLength: 16 }), (list) => {
        const table = Float32Array.from(list);
        const largest = Math.max(...table.map(Math.abs));
        fc.pre(largest === 0 || largest > 1e-30);
        for (const [i, value] of back(quickTable(table)).entries())
          expect(Math.abs(value - table[i]!)).toBeLessThanOrEqual(largest * 2 ** -15.9);
      }),
      { numRuns: 30 },
    );
    for (const [table, worst] of [
      [NF4_TABLE, 2 ** -16.9],
      [FP4_TABLE, 1e-7],
    ] as const) {
      const values = Float32Array.from(table);
      for (const [i, value] of back(quickTable(values)).entries()) expect(Math.abs(value - values[i]!)).toBeLessThan(worst);
    }
  });
});
