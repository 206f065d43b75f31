import type { Codebook, HostTensor, Matrix, StoredLinear, TensorSource } from '@lowbit/core';
import { codecFor, isLowbitError, isTilePacking, memorySource, memoryWriter, packing } from '@lowbit/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isRecoding, recodedBytes, recodeLinear } from './recode.ts';

const format = (bits: number, dim: 1 | 2, name: string): Codebook => ({
  kind: 'codebook',
  bits,
  dim,
  group: 4,
  table: `higgs-${bits}-${dim}`,
  scale: 'f16',
  packing: name,
  rotate: { kind: 'hadamard', block: 8 },
});

const packings = (bits: number, dim: number): string[] => [`flute${bits}_p${dim}_t32`, `flute${bits}_p${dim}_t64`, `row_bits${bits * dim}`];

/** A linear of random bytes, whose table is a constant. */
function linear(own: Codebook, shape: Matrix, seed: number): { readonly stored: StoredLinear; readonly source: TensorSource } {
  const tensors: Record<string, HostTensor> = {};
  let state = seed;
  for (const [part, spec] of Object.entries(codecFor(own).parts(own, shape))) {
    const { writer: _, parts } = memoryWriter({ [part]: spec });
    const { data } = parts[part]!;
    for (let i = 0; i < data.length; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      data[i] = state >>> 24;
    }
    tensors[part] = parts[part]!;
  }
  const { table, ...stored } = tensors;
  return {
    stored: { format: own, shape, parts: { codes: 'm.codes', scale: 'm.scale' }, constants: { table: table! } },
    source: memorySource({ 'm.codes': stored.codes!, 'm.scale': stored.scale! }),
  };
}

describe('recodeLinear', () => {
  it('moves every code between any two packings, within the budget, and copies the rest', async () => {
    const cases = fc
      .record({
        bits: fc.constantFrom(2, 3, 4),
        dim: fc.constantFrom<1 | 2>(1, 2),
        tiles: fc.integer({ min: 1, max: 3 }),
        inp: fc.integer({ min: 1, max: 30 }),
      })
      .chain((size) => {
        const names = packings(size.bits, size.dim);
        return fc.record({
          size: fc.constant(size),
          from: fc.constantFrom(...names),
          to: fc.constantFrom(...names),
          seed: fc.nat(),
          budget: fc.constantFrom(1 << 18, 1 << 25),
        });
      });
    await fc.assert(
      fc.asyncProperty(cases, async ({ size, from, to, seed, budget }) => {
        const { bits, dim, tiles, inp } = size;
        const tileRows = [from, to].map((name) => packing(name)).map((p) => (isTilePacking(p) ? p.tileRows : 1));
        const shape: Matrix = [tiles * Math.max(...tileRows), inp];
        const { stored, source } = linear(format(bits, dim, from), shape, seed);
        const target = format(bits, dim, to);
        const { writer, parts } = memoryWriter(codecFor(target).parts(target, shape));
        let done = 0;
        await recodeLinear(source, stored, target, writer, { path: 'm', budget, onBytes: (count) => (done += count) });
        expect(done).toBe(recodedBytes(source, stored));
        const codes = async (): Promise<HostTensor> => source.read('m.codes');
        const own = {
          format: stored.format,
          shape,
          parts: { codes: await codes(), scale: await source.read('m.scale'), ...stored.constants },
        };
        const codec = codecFor(target);
        const [want, got] = [codec.unpackRows(own, 0, shape[0]), codec.unpackRows({ format: target, shape, parts }, 0, shape[0])];
        expect(Buffer.compare(got.data, want.data)).toBe(0);
        expect(Buffer.compare(parts.scale!.data, own.parts.scale.data)).toBe(0);
        expect(Buffer.compare(parts.table!.data, stored.constants!.table!.data)).toBe(0);
      }),
      { numRuns: 60 },
    );
  });

  it('reads no more at a time than the budget, and each byte once', async () => {
    const own = format(4, 2, 'flute4_p2_t32');
    const shape: Matrix = [128 * 20, 2048];
    const { stored, source } = linear(own, shape, 1);
    const sizes: number[] = [];
    const counting: TensorSource = {
      ...source,
      async read(name, options) {
        const piece = await source.read(name, options);
        if (name === 'm.codes') sizes.push(piece.data.byteLength);
        return piece;
      },
    };
    const target = format(4, 2, 'row_bits8');
    const { writer } = memoryWriter(codecFor(target).parts(target, shape));
    await recodeLinear(counting, stored, target, writer, { path: 'm', budget: 1 << 20 });
    expect(sizes.length).toBeGreaterThan(5);
    expect(Math.max(...sizes)).toBeLessThanOrEqual((1 << 20) / 5);
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBe((shape[0] * shape[1]) / 2);
    const error = await recodeLinear(source, stored, target, writer, { path: 'm', budget: 1 << 16 }).catch((reason: unknown) => reason);
    expect(isLowbitError(error, 'ERR_LIMIT')).toBe(true);
  });

  it('takes nothing over into another format', async () => {
    const own = format(4, 2, 'flute4_p2_t32');
    const { stored, source } = linear(own, [128, 8], 1);
    expect(isRecoding(own, own)).toBe(true);
    expect(isRecoding(own, { ...own, packing: 'row_bits8' } as Codebook)).toBe(true);
    expect(isRecoding(own, { kind: 'dense', dtype: 'f16' })).toBe(false);
    expect(isRecoding({ ...own, packing: 'u8' } as Codebook, own)).toBe(false);
    for (const change of [{ group: 8 }, { scale: 'bf16' }, { bits: 3 }, { rotate: { kind: 'hadamard', block: 4 } }] as const) {
      const target = { ...own, ...change } as Codebook;
      expect(isRecoding(own, target)).toBe(false);
      const { writer } = memoryWriter({});
      const error = await recodeLinear(source, stored, target, writer, { path: 'm', budget: 1 << 20 }).catch((reason: unknown) => reason);
      expect(error).toMatchObject({ code: 'ERR_UNSUPPORTED_FORMAT', message: expect.stringContaining('"m"') });
    }
  });
});
