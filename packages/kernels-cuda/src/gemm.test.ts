// Which kernels multiply many rows, and how inputs are shared out where there are few blocks.
import type { Format } from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import type { Argument, Launch } from './binding.ts';
import { gemmLaunches, hasGemm, MANY_ROWS, sharesOf } from './gemm.ts';
import { FEW_ROWS, preparation, productLaunches } from './launches.ts';
import { planLayout } from './layout.ts';

const affine = { kind: 'affine', levels: 16, group: 64, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' } as const;
const higgs = {
  kind: 'codebook',
  bits: 4,
  dim: 2,
  group: 64,
  table: 't',
  scale: 'f16',
  packing: 'u8',
  rotate: { kind: 'hadamard', block: 64 },
} as const;
const at: Argument = { buffer: 0 };

function lowered(format: Format, shape: readonly [number, number], rows: number | { readonly domain: number }): readonly Launch[] {
  const scratch = { perRow: () => at, once: () => at };
  const before: Launch[] = [];
  const layout = planLayout(format, shape, []);
  const launches = productLaunches(layout, at, { rows, x: at, out: at }, preparation(rows, at, 2, scratch, before), scratch);
  return [...before, ...launches];
}

describe('products of many rows', () => {
  it.for<readonly [Format, readonly [number, number], string]>([
    [affine, [128, 256], 'gemm_affine'],
    [{ ...affine, group: 32 }, [128, 256], 'gemm_float'],
    [{ ...affine, axis: 0 }, [128, 256], 'gemm_float'],
    [{ kind: 'codebook', bits: 4, dim: 1, group: 64, table: 'nf4', scale: 'f32', packing: 'bnb_nibble' }, [128, 256], 'gemm_table'],
    [higgs, [128, 256], 'gemm_half'],
    [{ ...higgs, scale: 'f32' }, [128, 256], 'gemm_float'],
    [{ kind: 'dense', dtype: 'bf16' }, [128, 96], 'gemm_half'],
    [{ kind: 'dense', dtype: 'bf16' }, [128, 72], 'gemm_float'],
    [{ kind: 'dense', dtype: 'f32' }, [128, 256], 'gemm_float'],
    [{ kind: 'dense', dtype: 'f32' }, [128, 100], 'product'],
    [{ kind: 'int8', threshold: 6 }, [128, 100], 'gemm_int8'],
  ])('%o [%o] are by %s', ([format, shape, kernel]) => {
    expect(lowered(format, shape, MANY_ROWS).at(-1)).toMatchObject({ kernel });
    expect(
      lowered(format, shape, MANY_ROWS - 1)
        .at(-1)
        ?.kernel.startsWith('gemm_'),
    ).toBe(false);
  });

  it('choose at each step what they would choose for its rows', () => {
    for (const format of [affine, higgs, { kind: 'int8', threshold: 6 }] as const) {
      for (const shape of [
        [4096, 4096],
        [576, 1536],
      ] as const) {
        const launches = lowered(format, shape, { domain: 0 });
        for (const rows of [1, FEW_ROWS, 3, 64, 65, 128, 129, 256, 257, 512, 513, 5000]) {
          const now = launches.filter(
            ({ where }) => where === undefined || (rows >= (where.least ?? 0) && rows <= (where.most ?? Infinity)),
          );
          expect(now.map(({ kernel }) => kernel)).toEqual(lowered(format, shape, rows).map(({ kernel }) => kernel));
        }
      }
    }
  });

  it('share inputs out among blocks where there are few, without a gap and within bounds of memory', () => {
    for (const out of [1, 128, 576, 1536, 4096, 14336, 128256]) {
      for (const inp of [64, 256, 576, 4096, 14336]) {
        const shares = sharesOf({ out, inp });
        expect(shares[0]!.least).toBe(MANY_ROWS);
        expect(shares.at(-1)).not.toHaveProperty('most');
        for (const [i, { least, parts }] of shares.entries()) {
          if (i > 0) expect(least).toBe(shares[i - 1]!.most! + 1);
          expect(parts).toBeGreaterThanOrEqual(1);
          // Each has four tiles of 64 inputs and more; together no more than a large GPU runs at once.
          if (parts === 1) continue;
          expect(Math.ceil(inp / 64) / parts).toBeGreaterThanOrEqual(4);
          expect(Math.ceil(out / 128) * Math.ceil(least / 128) * parts).toBeLessThanOrEqual(132);
        }
        const layout = planLayout({ kind: 'dense', dtype: 'bf16' }, [out, inp], []);
        expect(hasGemm(layout)).toBe(true);
        let once = 0;
        const scratch = {
          perRow: () => at,
          once(width: number): Argument {
            once = width;
            return at;
          },
        };
        gemmLaunches(layout, at, { rows: { domain: 0 }, out: at }, { planes: at, numbers: at }, 2, scratch);
        expect(4 * once).toBeLessThanOrEqual(132 * 128 * 128 * 4);
      }
    }
    expect(sharesOf({ out: 4096, inp: 4096 })).toEqual([
      { least: 65, most: 128, parts: 4 },
      { least: 129, most: 256, parts: 2 },
      { least: 257, parts: 1 },
    ]);
  });
});
