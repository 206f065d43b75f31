import { describe, expect, it } from 'vitest';
import { parseIds } from './ids-file.ts';

describe('parseIds', () => {
  it('reads the three forms', () => {
    expect(parseIds([1, 2, 3], 'f')).toEqual({ texts: [[1, 2, 3]], context: undefined, prefixIds: [], dropPartial: false });
    expect(parseIds([[1, 2], [3]], 'f').texts).toEqual([[1, 2], [3]]);
    expect(parseIds({ ids: [1, 2], context: 256, bos: 0, windows: 3 }, 'f')).toEqual({
      texts: [[1, 2]],
      context: 256,
      prefixIds: [0],
      dropPartial: true,
    });
    expect(parseIds({ context: 4, windows: [{ ids: [1, 2] }, { ids: [3, 4] }] }, 'f').texts).toEqual([
      [1, 2],
      [3, 4],
    ]);
  });

  it.each([
    [null],
    ['text'],
    [[]],
    [[1, -1]],
    [[1, '2']],
    [[1.5]],
    [[[]]],
    [[[1], 2]],
    [{}],
    [{ ids: 'x' }],
    [{ ids: [1], bos: -1 }],
    [{ ids: [1], context: 1 }],
    [[1, 2 ** 40]],
  ])('refuses %j', (value) => expect(() => parseIds(value, 'f')).toThrow(/^--ids: f /));
});
