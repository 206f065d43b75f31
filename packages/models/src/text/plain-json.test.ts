import { parseJsonFile, toJson } from '@lowbit/layouts';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { plainJson } from './plain-json.ts';

const bytes = (text: string) => new TextEncoder().encode(text);

describe('plainJson', () => {
  test('is what the exact reader gives', () => {
    fc.assert(
      fc.property(fc.json({ stringUnit: 'binary' }), (text) => {
        expect(plainJson(bytes(text))).toEqual(toJson(parseJsonFile(bytes(text), 'file')));
      }),
      { seed: 1 },
    );
  });

  test('has no prototypes, at any depth, and no key that means more than itself', () => {
    const found = plainJson(bytes('{"__proto__": {"x": 1}, "a": [{"b": {}}], "constructor": 2, "constructor": 3}')) as Record<
      string,
      never
    >;
    expect(Object.keys(found)).toEqual(['__proto__', 'a', 'constructor']);
    expect([found.x, found.toString, (found.a as [{ b: object }])[0].b.toString]).toEqual([undefined, undefined, undefined]);
    expect(found.constructor).toBe(3);
    expect(Object.getPrototypeOf(found.a[0])).toBe(null);
  });

  test.each([
    ['what JSON.parse refuses', '{"a": NaN}'],
    ['a text that ends early', '{"a": [1, "\\"'],
    ['lists of more levels than 64', '['.repeat(65) + ']'.repeat(65)],
    ['too many values', `[${'[],'.repeat(2_600_000)}[]]`],
  ])('leaves %s to the exact reader', (_, text) => expect(plainJson(bytes(text))).toBeUndefined());

  test('leaves bytes that are no UTF-8 to it, and is not misled by brackets in strings', () => {
    expect(plainJson(Uint8Array.of(0x22, 0xff, 0x22))).toBeUndefined();
    const text = JSON.stringify(['['.repeat(100), '\\', '"', '[[']);
    expect(plainJson(bytes(text))).toEqual(JSON.parse(text));
  });
});
