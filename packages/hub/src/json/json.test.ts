import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { fromJson, type JsonRules, parseJson, toJson } from './parse.ts';
import { compareCodePoints, writeJson } from './write.ts';

const rules: JsonRules = { maxDepth: 200, duplicates: 'last', fail: (problem, at) => new Error(`${problem} at ${at}`) };

describe('parseJson', () => {
  test('agrees with JSON.parse', () => {
    fc.assert(
      fc.property(fc.json({ noUnicodeString: false }), (text) => {
        expect(toJson(parseJson(text, rules))).toEqual(JSON.parse(text));
      }),
    );
  });

  test('refuses what JSON.parse refuses, and takes what it takes', () => {
    const piece = fc.constantFrom(
      '{',
      '}',
      '[',
      ']',
      ',',
      ':',
      '"a"',
      '"',
      '1',
      '-',
      '0',
      '1.',
      '.5',
      'e3',
      '1e3',
      'true',
      'null',
      ' ',
      '\\',
      '\t',
    );
    const accepts = (parse: () => unknown) => {
      try {
        parse();
        return true;
      } catch {
        return false;
      }
    };
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 8 }), (pieces) => {
        const text = pieces.join('');
        expect(accepts(() => parseJson(text, rules))).toBe(accepts(() => JSON.parse(text)));
      }),
      { numRuns: 5000 },
    );
  });

  test('keeps number literals; Python constants only on request', () => {
    expect(parseJson('[1e-05, 10000.0]', rules)).toEqual([{ literal: '1e-05' }, { literal: '10000.0' }]);
    expect(() => parseJson('NaN', rules)).toThrow(/unexpected/);
    expect(toJson(parseJson('[NaN, -Infinity]', { ...rules, python: true }))).toEqual([Number.NaN, Number.NEGATIVE_INFINITY]);
  });

  test('objects have no prototype', () => {
    const value = toJson(parseJson('{"__proto__": {"x": 1}}', rules)) as { readonly [key: string]: unknown };
    expect(Object.keys(value)).toEqual(['__proto__']);
    expect(value.x).toBeUndefined();
    expect(value.constructor).toBeUndefined();
  });
});

test('writeJson writes as Python does', () => {
  const value = { b: [1, [], {}, { z: null, a: true }], a: 'é🦙\u007f\u0001"\\/', '\ufffd': 1, '🦙': 2 };
  expect(writeJson(fromJson(value))).toBe(
    '{\n  "a": "\\u00e9\\ud83e\\udd99\\u007f\\u0001\\"\\\\/",\n  "b": [\n    1,\n    [],\n    {},\n    {\n      "a": true,\n      "z": null\n    }\n  ],\n  "\\ufffd": 1,\n  "\\ud83e\\udd99": 2\n}',
  );
});

test('compareCodePoints is the order of UTF-8 bytes', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }), (a, b) => {
      expect(Math.sign(compareCodePoints(a, b))).toBe(Math.sign(Buffer.compare(Buffer.from(a), Buffer.from(b))));
    }),
  );
});
