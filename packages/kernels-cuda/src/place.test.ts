import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { Launch } from './binding.ts';
import { placeLaunched } from './place.ts';

const launch = (ids: readonly number[]): Launch => ({
  kernel: 'k',
  grid: [1, 1, 1],
  block: 1,
  arguments: ids.map((tensor) => ({ tensor })),
});

it('gives tensors that live at once places of their own, and others the same room', () => {
  const list = fc.array(fc.array(fc.nat(11), { maxLength: 4 }), { minLength: 1, maxLength: 20 });
  const shapes = fc.array(fc.record({ rows: fc.nat(4), width: fc.integer({ min: 1, max: 40 }) }), { minLength: 12, maxLength: 12 });
  fc.assert(
    fc.property(list, shapes, fc.uniqueArray(fc.nat(11)), (uses, tensors, kept) => {
      const { tensors: places, widths } = placeLaunched(tensors, uses.map(launch), new Set(kept));
      const life = tensors.map((_, id) => {
        const at = [...uses.keys()].filter((i) => uses[i]!.includes(id));
        return at.length === 0 ? undefined : ([at[0]!, kept.includes(id) ? uses.length : at.at(-1)!] as const);
      });
      for (const [a, one] of places.entries()) {
        if (!life[a]) continue;
        expect(one.offset % 4).toBe(0);
        expect(one.offset + one.width).toBeLessThanOrEqual(widths[one.rows]!);
        for (const [b, other] of places.entries()) {
          if (a === b || !life[b] || one.rows !== other.rows || life[a][0] > life[b][1] || life[b][0] > life[a][1]) continue;
          expect(one.offset + one.width <= other.offset || other.offset + other.width <= one.offset).toBe(true);
        }
      }
    }),
  );
  const chain = placeLaunched(
    Array.from({ length: 6 }, () => ({ rows: 0, width: 8 })),
    [0, 1, 2, 3, 4].map((i) => launch([i, i + 1])),
    new Set([5]),
  );
  expect(chain.widths).toEqual([16, 0, 0, 0, 0]);
});
