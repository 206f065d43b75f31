import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { fromJson, type JsonRules, parseJson, toJson } from './parse.ts';
import { compareCodePoints, pythonFloat, writeJson } from './write.ts';

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

describe('pythonFloat', () => {
  test.each([
    [9.999999747378752e-6, '9.999999747378752e-06'],
    [9.999999747378752e-5, '9.999999747378752e-05'],
    [0.00010000000474974513, '0.00010000000474974513'],
    [Math.fround(0.12873007), '0.12873007357120514'],
    [3.4028234663852886e38, '3.4028234663852886e+38'],
    [2 ** -149, '1.401298464324817e-45'],
    [2 ** 24, '16777216.0'],
    [1.0000000272564224e16, '1.0000000272564224e+16'],
    [9999999198822400, '9999999198822400.0'],
    [-1, '-1.0'],
    [0, '0.0'],
    [-0, '-0.0'],
    [1, '1.0'],
    [-9.99994610111476e-41, '-9.99994610111476e-41'],
    [2 ** 63, '9.223372036854776e+18'],
    [1e16, '1e+16'],
    [9999999999999998, '9999999999999998.0'],
    [123456789012345680, '1.2345678901234568e+17'],
    [1e-4, '0.0001'],
    [9.999e-5, '9.999e-05'],
    [1e22, '1e+22'],
    [1.5e300, '1.5e+300'],
    [5e-324, '5e-324'],
    [1e15, '1000000000000000.0'],
    [123456, '123456.0'],
    [Number.NaN, 'NaN'],
    [Number.NEGATIVE_INFINITY, '-Infinity'],
  ])('%d', (value, expected) => {
    expect(pythonFloat(value)).toBe(expected);
  });

  test('reads back equal, in the form of a float', () => {
    fc.assert(
      fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (value) => {
        const text = pythonFloat(value);
        expect(Object.is(Number(text), value)).toBe(true);
        expect(text).toMatch(/^-?\d+(?:\.\d+(?:e[+-]\d\d+)?|e[+-]\d\d+)$/);
        expect(text).not.toMatch(/^-?0\d/);
      }),
      { numRuns: 2000 },
    );
  });
});

test('compareCodePoints is the order of UTF-8 bytes', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }), (a, b) => {
      expect(Math.sign(compareCodePoints(a, b))).toBe(Math.sign(Buffer.compare(Buffer.from(a), Buffer.from(b))));
    }),
  );
});
