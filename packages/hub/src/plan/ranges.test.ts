import fc from 'fast-check';
import { expect, test } from 'vitest';
import { addRange, firstGap, type Ranges } from './ranges.ts';

test('ranges agree with a set of bytes', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(40), fc.nat(12)), { maxLength: 25 }), (writes) => {
      const ranges: Ranges = [];
      const bytes = new Set<number>();
      for (const [from, length] of writes) {
        addRange(ranges, from, from + length);
        for (let i = from; i < from + length; i++) bytes.add(i);
      }
      expect(ranges.reduce((sum, [from, to]) => sum + to - from, 0)).toBe(bytes.size);
      for (let i = 1; i < ranges.length; i++) expect(ranges[i]![0]).toBeGreaterThan(ranges[i - 1]![1]);
      let gap: number | undefined;
      for (let i = 3; i < 50 && gap === undefined; i++) if (!bytes.has(i)) gap = i;
      expect(firstGap(ranges, 3, 50)).toBe(gap);
    }),
  );
});
