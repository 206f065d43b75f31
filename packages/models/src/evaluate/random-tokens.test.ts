import { expect, it } from 'vitest';
import { randomTokens } from './random-tokens.ts';

it('gives the same ids for the same seed, all over the vocabulary', () => {
  const ids = randomTokens(49152, 1024);
  expect(ids).toEqual(randomTokens(49152, 1024));
  expect(ids).not.toEqual(randomTokens(49152, 1024, 2));
  expect([...ids.subarray(0, 4)]).toEqual([...randomTokens(49152, 4)]);
  expect(Math.max(...ids)).toBeLessThan(49152);
  const halves = ids.reduce((low, id) => low + Number(id < 49152 / 2), 0);
  expect(Math.abs(halves - 512)).toBeLessThan(80);
  expect(new Set(randomTokens(3, 100))).toEqual(new Set([0, 1, 2]));
});

it('refuses what is no count', () => {
  for (const [vocab, count] of [
    [0, 1],
    [10, 0],
    [1.5, 1],
    [10, Number.NaN],
  ] as const) {
    expect(() => randomTokens(vocab, count)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
  }
});
