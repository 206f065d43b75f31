import fc from 'fast-check';
import { expect, test } from 'vitest';
import { largestOfRows } from './largest.ts';

test('falling, of equals the lower place first', () => {
  const rows = new Float32Array([1, 3, -2, 3, Number.NEGATIVE_INFINITY, 2, 0, -0, -1, -1, -1, -1]);
  expect(largestOfRows(rows, 6, 3)).toEqual({ values: new Float32Array([3, 3, 2, 0, -0, -1]), ids: new Int32Array([1, 3, 5, 0, 1, 2]) });
});

test('the first NaN is in front, so that nobody takes the rest for all there is', () => {
  const row = new Float32Array([1, Number.NaN, 3, Number.NaN, 2]);
  for (const count of [1, 2, 3, 4, 5]) {
    const { values, ids } = largestOfRows(row, 5, count);
    expect(Array.from(ids)).toEqual([1, 2, 4, 0, -1].slice(0, count));
    expect(Array.from(values)).toEqual([Number.NaN, 3, 2, 1, Number.NEGATIVE_INFINITY].slice(0, count));
  }
});

test('what a row lacks has no place', () => {
  const { values, ids } = largestOfRows(new Float32Array([Number.NaN, Number.NEGATIVE_INFINITY, Number.NaN]), 3, 3);
  expect(Array.from(ids)).toEqual([0, 1, -1]);
  expect(Array.from(values)).toEqual([Number.NaN, Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY]);
});

test('is the head of a stable sort', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: -5, max: 5 }), { minLength: 1, maxLength: 40 }), fc.nat(), (row, some) => {
      const count = 1 + (some % row.length);
      const order = Array.from(row.keys()).sort((a, b) => row[b]! - row[a]! || a - b);
      expect(Array.from(largestOfRows(Float32Array.from(row), row.length, count).ids)).toEqual(order.slice(0, count));
    }),
  );
});
