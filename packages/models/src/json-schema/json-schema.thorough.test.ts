import { readFileSync } from 'node:fs';
import type { Json, JsonObject } from '@lowbit/core';
import { Ajv2020 } from 'ajv/dist/2020.js';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { goldenJson } from '../../../../fixtures/golden.ts';
import { createRandom, type Random } from '../sampling/random.ts';
import { createTokenizer, type Tokenizer } from '../text/tokenizer.ts';
import { type JsonSchema, jsonSchema } from './index.ts';

interface Subject {
  readonly tokenizer: Tokenizer;
  readonly endIds: readonly number[];
  readonly size: number;
}

const tiny = JSON.parse(readFileSync(new URL('../../../../examples/tiny-llama/tokenizer.json', import.meta.url), 'utf8')) as JsonObject;

function subject(json: JsonObject, end: string): Subject {
  const tokenizer = createTokenizer(json);
  return { tokenizer, endIds: [tokenizer.tokenId(end)!], size: tokenizer.tokenBytes().length };
}
const golden = (name: string): JsonObject => goldenJson<JsonObject>(`models/tokenizer-${name}/tokenizer.json`);
const SUBJECTS: Readonly<Record<string, Subject>> = {
  'byte-level BPE (tiny-llama)': subject(tiny, '<|eos|>'),
  'byte-level BPE (llama3)': subject(golden('llama3'), '<|end_of_text|>'),
  'byte fallback (mistral)': subject(golden('mistral'), '</s>'),
  'byte fallback (gemma)': subject(golden('gemma'), '<eos>'),
};

/** What brings a text to its end, the best first. */
const CLOSING = ['"', '}', ']', ':', ...'0123456789', 'n', 't', 'f'];

/** Tokens by chance, after `turn` of them those that close what is open. Every step must leave a token. */
function write({ tokenizer, endIds, size }: Subject, schema: JsonSchema, random: Random, turn: number): string {
  const process = jsonSchema({ tokenizer, endIds }, schema);
  const bytes = tokenizer.tokenBytes();
  const closing = CLOSING.map((text) => bytes.findIndex((token) => token?.length === 1 && token[0] === text.charCodeAt(0)));
  const tokens = [3, 1];
  for (let step = 0; step < turn + 2000; step++) {
    const scores = new Float64Array(size).fill(0);
    process(scores, { tokens, prompt: 2 });
    const allowed = [...scores.keys()].filter((id) => scores[id]! > Number.NEGATIVE_INFINITY);
    if (allowed.length === 0) throw new Error(`no token after ${tokenizer.decode(tokens.slice(2))}`);
    const ends = allowed.find((id) => endIds.includes(id));
    if (ends !== undefined && (step >= turn || allowed.length === endIds.length || random() < 0.3))
      return tokenizer.decode(tokens.slice(2));
    const others = allowed.filter((id) => !endIds.includes(id));
    const close = closing.find((id) => allowed.includes(id)) ?? others[0]!;
    tokens.push(step >= turn ? close : random() < 0.2 ? close : others[Math.floor(random() * others.length)]!);
  }
  throw new Error(`no end: ${tokenizer.decode(tokens.slice(2)).slice(0, 300)}`);
}

const ajv = new Ajv2020({ strict: false, validateSchema: true });

function check(one: Subject, schema: JsonSchema, seed: number, turn = 25): string {
  const text = write(one, schema, createRandom(seed), turn);
  const value: unknown = JSON.parse(text);
  const valid = ajv.compile(schema);
  if (!valid(value)) throw new Error(`${text} does not satisfy ${JSON.stringify(schema)}: ${ajv.errorsText(valid.errors)}`);
  return text;
}

const NAMES = ['a', 'ab', 'b', 'name', 'über', 'a"b', 'x\ny', ''];
const bound = fc.oneof(
  fc.integer({ min: -120, max: 120 }),
  fc.double({ min: -10, max: 10, noNaN: true }).map((x) => Math.round(x * 8) / 8),
);
const optional = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined });
const record = (parts: Record<string, fc.Arbitrary<unknown>>): fc.Arbitrary<JsonSchema> =>
  fc.record(parts).map((made) => JSON.parse(JSON.stringify(made)) as JsonSchema);

const { schema: schemas } = fc.letrec<{ schema: JsonSchema }>((tie) => ({
  schema: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    fc.constantFrom<JsonSchema>({ type: 'null' }, { type: 'boolean' }, true, {}, { type: ['integer', 'null'] }),
    record({ type: fc.constant('string'), minLength: optional(fc.nat(4)), maxLength: optional(fc.integer({ min: 2, max: 9 })) }),
    record({
      type: fc.constantFrom('integer', 'number'),
      minimum: optional(bound),
      maximum: optional(bound),
      exclusiveMinimum: optional(bound),
      exclusiveMaximum: optional(bound),
      multipleOf: optional(fc.integer({ min: 1, max: 7 })),
    }),
    record({ enum: fc.array(fc.jsonValue({ maxDepth: 1 }), { minLength: 1, maxLength: 4 }) }),
    record({ const: fc.constantFrom('ä', 'yes', 3, -1.5, null, ['x', 1], { k: 'v' }) }),
    record({
      type: fc.constant('array'),
      prefixItems: optional(fc.array(tie('schema'), { minLength: 1, maxLength: 2 })),
      items: optional(tie('schema')),
      minItems: optional(fc.nat(2)),
      maxItems: optional(fc.integer({ min: 1, max: 4 })),
    }),
    fc
      .tuple(
        fc.uniqueArray(fc.constantFrom(...NAMES), { maxLength: 4 }),
        fc.array(tie('schema'), { minLength: 4, maxLength: 4 }),
        fc.nat(15),
        optional(fc.oneof(fc.constant(false), tie('schema'))),
      )
      .map(([names, parts, must, extra]) => ({
        type: 'object',
        properties: Object.fromEntries(names.map((name, i) => [name, parts[i]!])),
        required: names.filter((_, i) => (must >> i) & 1),
        ...(extra === undefined ? {} : { additionalProperties: extra }),
      })),
    record({ anyOf: fc.array(tie('schema'), { minLength: 1, maxLength: 3 }) }),
  ),
}));

describe.each(Object.entries(SUBJECTS))('%s', (_, one) => {
  test('what ends is valid, and every step leaves a token', () => {
    let impossible = 0;
    fc.assert(
      fc.property(schemas, fc.nat(), (schema, seed) => {
        try {
          check(one, schema, seed);
        } catch (error) {
          if (!(error as Error).message.includes('no value satisfies it')) throw error;
          expect((error as { code?: string }).code).toBe('ERR_BAD_ARGUMENT');
          impossible++;
        }
      }),
      { seed: 7, numRuns: 120 },
    );
    expect(impossible).toBeLessThan(40);
  });
});

describe('a schema as people write it', () => {
  const one = SUBJECTS['byte-level BPE (tiny-llama)']!;
  const person = {
    type: 'object',
    properties: {
      name: { type: 'string', maxLength: 12 },
      age: { type: 'integer', minimum: 0, maximum: 130 },
      tags: { type: 'array', items: { enum: ['red', 'reddish', 'blue'] }, minItems: 1, maxItems: 3 },
      friend: { anyOf: [{ $ref: '#' }, { type: 'null' }] },
    },
    required: ['name', 'age', 'tags'],
    additionalProperties: false,
  };
  test('is kept', () => {
    for (let seed = 0; seed < 20; seed++) check(one, person, seed, 60);
  });
  test('a tagged union by oneOf, and references', () => {
    const shape = {
      $defs: {
        circle: {
          type: 'object',
          properties: { kind: { const: 'circle' }, r: { type: 'number', exclusiveMinimum: 0 } },
          required: ['kind', 'r'],
        },
        box: {
          type: 'object',
          properties: {
            kind: { const: 'box' },
            sides: { type: 'array', prefixItems: [{ type: 'integer' }, { type: 'integer' }], items: false, minItems: 2 },
          },
          required: ['kind', 'sides'],
        },
      },
      type: 'array',
      items: { oneOf: [{ $ref: '#/$defs/circle' }, { $ref: '#/$defs/box' }] },
      minItems: 1,
    };
    const seen = new Set<string>();
    for (let seed = 0; seed < 20; seed++) seen.add(check(one, shape, seed, 50).includes('circle') ? 'circle' : 'box');
    expect([...seen].sort()).toEqual(['box', 'circle']);
  });
  test('a model that likes blanks best does not go on with them', () => {
    const bytes = one.tokenizer.tokenBytes();
    const blanks = new Map(bytes.flatMap((token, id) => (token?.every((byte) => byte <= 0x20) ? [[id, token.length] as const] : [])));
    const process = jsonSchema(one, { type: 'object', properties: { a: { enum: [1] } }, required: ['a'] });
    const tokens: number[] = [];
    while (tokens.at(-1) !== one.endIds[0] && tokens.length < 200) {
      const scores = Float64Array.from({ length: one.size }, (_, id) => (blanks.has(id) ? 100 - blanks.get(id)! : 0));
      process(scores, { tokens, prompt: 0 });
      tokens.push(scores.indexOf(scores.reduce((a, b) => Math.max(a, b))));
    }
    const text = tokens
      .slice(0, -1)
      .map((id) => String.fromCharCode(...(bytes[id] ?? [])))
      .join('');
    expect(JSON.parse(text)).toEqual({ a: 1 });
    expect(text.length).toBeLessThan(60);
  });
  test('one processor serves several texts, in turns and anew', () => {
    const process = jsonSchema(one, { enum: ['ab', 'cd'] });
    const bytes = one.tokenizer.tokenBytes();
    const id = (text: string): number => bytes.findIndex((token) => token?.length === 1 && token[0] === text.charCodeAt(0));
    const after = (tokens: number[], prompt: number): string[] => {
      const scores = new Float64Array(one.size);
      process(scores, { tokens, prompt });
      const some = ['"', 'a', 'b', 'c', 'd'].filter((text) => scores[id(text)] === 0);
      return scores[one.endIds[0]!] === 0 ? [...some, 'end'] : some;
    };
    const [a, b] = [[9], [8, 8]];
    expect(after(a, 1)).toEqual(['"']);
    expect(after(b, 2)).toEqual(['"']);
    a.push(id('"'));
    expect(after(a, 1)).toEqual(['a', 'c']);
    a.push(id('a'));
    expect(after(a, 1)).toEqual(['b']);
    expect(after(b, 2)).toEqual(['"']);
    a.push(id('b'), id('"'));
    expect(after(a, 1)).toEqual(['end']);
    a.push(one.endIds[0]!);
    expect(after(a, 1)).toEqual(['end']);
    a.length = 2;
    expect(after(a, 1)).toEqual(['a', 'c']);
    expect(() => after([9, id('x')], 1)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', details: { token: id('x') } }));
  });
});

describe('what is written is what a validator reads', () => {
  const one = SUBJECTS['byte-level BPE (tiny-llama)']!;
  const bytes = one.tokenizer.tokenBytes();
  const byteIds = new Map(bytes.map((token, id) => [token?.length === 1 ? token[0]! : -1, id]));
  /** Whether the text may be written and end, one byte after the other. */
  const writes = (schema: JsonSchema, text: string): boolean => {
    const process = jsonSchema(one, schema);
    const tokens = [...new TextEncoder().encode(text)].map((byte) => byteIds.get(byte)!);
    for (let length = 0; length <= tokens.length; length++) {
      const scores = new Float64Array(one.size);
      process(scores, { tokens: tokens.slice(0, length), prompt: 0 });
      if (scores[tokens[length] ?? one.endIds[0]!] !== 0) return false;
    }
    return true;
  };

  test.each([1, 3, 7, 2 ** 53])('multiples of %d end where doubles no longer tell them apart', (multipleOf) => {
    for (const type of ['integer', 'number']) {
      const schema = { type, multipleOf };
      const last = 2n ** 53n - (2n ** 53n % BigInt(multipleOf));
      for (const sign of [1n, -1n]) {
        expect(writes(schema, String(sign * last))).toBe(true);
        expect(writes(schema, String(sign * (last + BigInt(multipleOf))))).toBe(false);
      }
      expect(writes({ ...schema, minimum: -1e300, maximum: 1e300 }, String(last + BigInt(multipleOf)))).toBe(false);
    }
  });
  test('the reported one: 9007199254740993 is a multiple of 3, and is read as 9007199254740992', () => {
    expect(writes({ multipleOf: 3, type: 'integer' }, '9007199254740993')).toBe(false);
    expect(writes({ type: 'integer' }, '9007199254740993')).toBe(true);
  });
  test('nothing is read as infinite', () => {
    expect(writes({ type: 'integer', minimum: 1e308 }, `1${'0'.repeat(308)}`)).toBe(true);
    expect(writes({ type: 'integer', minimum: 1e308 }, `2${'0'.repeat(308)}`)).toBe(false);
  });

  const tagged = (kind: Json, more: JsonObject = {}): JsonObject => ({
    properties: { kind: { const: kind } },
    required: ['kind'],
    ...more,
  });
  const both = (a: JsonObject, b: JsonObject) => () => jsonSchema(one, { oneOf: [a, b] });
  test('a tag tells objects apart, and nothing else', () => {
    for (const type of [
      ['object', 'string'],
      ['string', 'object'],
      ['object', 'null'],
    ]) {
      expect(both(tagged('a', { type }), tagged('b', { type }))).toThrow(/0 and 1 may both/);
      expect(both(tagged('a', { type }), tagged('b', { type: 'object' }))).toThrow(/0 and 1 may both/);
    }
    expect(both(tagged('a', { minLength: 1 }), tagged('b', { minLength: 1 }))).toThrow(/0 and 1 may both/);
    expect(both(tagged('a'), tagged('b'))).not.toThrow();
    expect(both(tagged('a', { type: ['object'] }), tagged('b', { type: 'object' }))).not.toThrow();
  });
  test('constants are told apart by their content', () => {
    const [x, y] = [
      { p: 1, q: { r: 2, s: [1, { t: 0, u: 1 }] } },
      { q: { s: [1, { u: 1, t: 0 }], r: 2 }, p: 1 },
    ];
    expect(both(tagged(x, { type: 'object' }), tagged(y, { type: 'object' }))).toThrow(/0 and 1 may both/);
    expect(both({ const: x }, { enum: ['other', y] })).toThrow(/0 and 1 may both/);
    expect(both({ const: x }, { const: { ...y, p: 2 } })).not.toThrow();
    expect(both({ const: [1, 2] }, { const: [2, 1] })).not.toThrow();
    expect(writes({ enum: [x, 3], const: y }, JSON.stringify(x))).toBe(true);
  });
  test('references are read alike everywhere', () => {
    const $defs = { 'a/b': { type: 'string' }, 'a~1b': { type: 'number' } };
    // The first is #/$defs/a/b escaped: a text, as the second.
    expect(() => jsonSchema(one, { $defs, type: 'array', items: { oneOf: [{ $ref: '#/$defs/a~1b' }, { type: 'string' }] } })).toThrow(
      /0 and 1 may both/,
    );
  });
  test('names that JavaScript reorders are refused beside others, and rise by themselves', () => {
    const names = (...list: string[]): JsonSchema => ({
      type: 'object',
      properties: Object.fromEntries(list.map((name) => [name, { const: 0 }])),
      required: list,
    });
    expect(() => jsonSchema(one, names('b', '7'))).toThrow(
      expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', details: { at: '#/properties/7' } }),
    );
    expect(writes(names('1', '2'), '{"1": 0, "2": 0}')).toBe(true);
    for (const name of ['01', '-1', '1.5', '4294967295']) expect(writes(names('b', name), `{"b": 0, "${name}": 0}`)).toBe(true);
  });
});

describe('bad schemas', () => {
  const one = SUBJECTS['byte-level BPE (llama3)']!;
  const nested = (levels: number): JsonSchema => (levels === 0 ? {} : { type: 'array', items: nested(levels - 1) });
  const ring: Record<string, unknown> = { type: 'array' };
  ring.items = { anyOf: [{ type: 'null' }, ring] };

  test.each<[string, unknown, string, RegExp]>([
    ['no schema', 3, 'ERR_BAD_ARGUMENT', /at #: expected an object/],
    ['null', null, 'ERR_BAD_ARGUMENT', /at #/],
    [
      'an unknown keyword',
      { properties: { a: { pattern: '^x' } } },
      'ERR_BAD_ARGUMENT',
      /at #\/properties\/a\/pattern: pattern is not supported/,
    ],
    ['a format', { format: 'date' }, 'ERR_BAD_ARGUMENT', /format is not supported/],
    ['an unknown type', { type: 'str' }, 'ERR_BAD_ARGUMENT', /"str" is no type/],
    ['no types', { type: [] }, 'ERR_BAD_ARGUMENT', /no type/],
    ['a length that is none', { type: 'string', maxLength: -1 }, 'ERR_BAD_ARGUMENT', /maxLength: -1/],
    ['a bound that is none', { minimum: '3' }, 'ERR_BAD_ARGUMENT', /minimum/],
    ['a step that is not whole', { type: 'number', multipleOf: 0.1 }, 'ERR_BAD_ARGUMENT', /multipleOf/],
    ['a step beyond exact numbers', { type: 'number', multipleOf: 2 ** 54 }, 'ERR_BAD_ARGUMENT', /multipleOf.*is not supported/],
    ['a reference to nothing', { $ref: '#/$defs/x' }, 'ERR_BAD_ARGUMENT', /no schema at #\/\$defs\/x/],
    ['a reference elsewhere', { $ref: 'https://example.com/a' }, 'ERR_BAD_ARGUMENT', /not in this schema/],
    ['a reference up the prototype', { $ref: '#/constructor' }, 'ERR_BAD_ARGUMENT', /no schema/],
    ['a reference to itself', { $ref: '#' }, 'ERR_BAD_ARGUMENT', /no value satisfies/],
    [
      'an object in itself',
      { type: 'object', properties: { a: { $ref: '#' } }, required: ['a'] },
      'ERR_BAD_ARGUMENT',
      /no value satisfies/,
    ],
    ['false', false, 'ERR_BAD_ARGUMENT', /no value satisfies/],
    ['an empty enum', { enum: [] }, 'ERR_BAD_ARGUMENT', /no value satisfies/],
    ['bounds that cross', { type: 'integer', minimum: 4, maximum: 3 }, 'ERR_BAD_ARGUMENT', /no value satisfies/],
    ['no multiple within', { type: 'integer', minimum: 4, maximum: 6, multipleOf: 7 }, 'ERR_BAD_ARGUMENT', /no value satisfies/],
    ['oneOf that overlaps', { oneOf: [{ type: 'integer' }, { type: 'number' }] }, 'ERR_BAD_ARGUMENT', /0 and 1 may both/],
    ['allOf', { allOf: [{}, {}] }, 'ERR_BAD_ARGUMENT', /allOf/],
    ['required that is no list', { required: 'a' }, 'ERR_BAD_ARGUMENT', /required/],
    ['endless nesting', nested(300), 'ERR_LIMIT', /levels/],
    ['deep values', { $defs: {}, ...(nested(80) as JsonObject), minItems: 1 }, 'ERR_BAD_ARGUMENT', /never/],
    ['too many parts', { anyOf: Array.from({ length: 20_000 }, (_, i) => ({ minimum: i })) }, 'ERR_LIMIT', /parts/],
    ['too many choices', { anyOf: Array.from({ length: 500 }, (_, i) => ({ type: 'integer', minimum: i })) }, 'ERR_LIMIT', /choices/],
    ['too much text', { enum: Array.from({ length: 200 }, (_, i) => String(i).repeat(5000)) }, 'ERR_LIMIT', /characters/],
  ])('%s', (name, schema, code, message) => {
    if (name === 'deep values') {
      expect(check(one, schema as JsonSchema, 1)).toMatch(/^\s*\[/); // deep, but an empty list will do inside
      return;
    }
    expect(() => jsonSchema(one, schema as JsonSchema)).toThrow(expect.objectContaining({ code, message: expect.stringMatching(message) }));
  });
  test('a schema that holds itself is a recursive one', () => {
    const process = jsonSchema(one, ring as JsonSchema);
    process(new Float64Array(one.size), { tokens: [], prompt: 0 });
  });
  test('a model that cannot end, and what is no model', () => {
    expect(() => jsonSchema({ ...one, endIds: [] }, {})).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
    expect(() => jsonSchema({} as never, {})).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
    expect(() => jsonSchema(undefined as never, {})).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
  });
  test('a vocabulary that cannot write JSON', () => {
    expect(() => jsonSchema(subject(golden('unigram'), '</s>'), {})).toThrow(expect.objectContaining({ code: 'ERR_TOKENIZER' }));
    const wordPiece = { ...golden('llama3'), decoder: { type: 'WordPiece' } };
    expect(() => jsonSchema({ ...one, tokenizer: { tokenBytes: createTokenizer(wordPiece).tokenBytes } }, {})).toThrow(
      expect.objectContaining({ code: 'ERR_TOKENIZER' }),
    );
  });
});
