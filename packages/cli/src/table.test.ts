import { describe, expect, it } from 'vitest';
import { pairs, table } from './table.ts';
import { bytesText, countText, durationText, shortCount } from './units.ts';

describe('table', () => {
  it('aligns columns and trims lines', () => {
    expect(
      table(
        [{ title: 'name' }, { title: 'n', align: 'right' }],
        [
          ['a', '10'],
          ['long name', '5'],
        ],
      ),
    ).toBe('name        n\na          10\nlong name   5');
    expect(
      pairs([
        ['a', '1'],
        ['bcd', '\x1b[2J'],
      ]),
    ).toBe('a    1\nbcd  ?[2J');
  });
});

describe('units', () => {
  it('are short and exact enough', () => {
    expect([0, 999, 1000, 11_547_040, 999_950, 4e9].map(bytesText)).toEqual(['0 B', '999 B', '1.00 kB', '11.5 MB', '1.00 MB', '4.00 GB']);
    expect([0, 999, 1234567].map(countText)).toEqual(['0', '999', '1,234,567']);
    expect([5, 5_770_496, 7e9].map(shortCount)).toEqual(['5', '5.77 M', '7.00 B']);
    expect([0, 800, 9940, 9960, 59_600, 185_000, 3_725_000].map(durationText)).toEqual([
      '0.0 s',
      '0.8 s',
      '9.9 s',
      '10 s',
      '1:00',
      '3:05',
      '1:02:05',
    ]);
  });
});
