import { isLowbitError } from '@lowbit/core';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { failure, rawFile } from '../testing.node.ts';
import { headerLength, parseHeader, type SafetensorsHeader } from './header.ts';

function parse(bytes: Uint8Array, fileSize = bytes.byteLength): SafetensorsHeader {
  const length = headerLength(bytes.subarray(0, 8), fileSize, 'f.safetensors');
  return parseHeader(bytes.subarray(8, 8 + length), fileSize, 'f.safetensors');
}

const entry = (from: number, to: number, shape: number[] = [to - from], dtype = 'U8') =>
  `{"dtype":"${dtype}","shape":${JSON.stringify(shape)},"data_offsets":[${from},${to}]}`;

describe('sound headers', () => {
  test('tensors, metadata, trailing spaces, any order of entries, extra keys', () => {
    const header = parse(
      rawFile(
        `{"b":${entry(4, 6)},"__metadata__":{"format":"pt"},"a":{"x":[1,{"y":null}],"dtype":"F32","shape":[],"data_offsets":[0,4]}}   `,
        6,
      ),
    );
    expect([...header.metadata]).toEqual([['format', 'pt']]);
    expect([...header.tensors.keys()]).toEqual(['b', 'a']);
    expect(header.tensors.get('a')).toEqual({ dtype: 'f32', shape: [], start: header.dataStart, end: header.dataStart + 4 });
  });

  test('no tensors, empty tensors, and a zero extent', () => {
    expect(parse(rawFile('{}')).tensors.size).toBe(0);
    const header = parse(rawFile(`{"a":${entry(0, 0)},"c":${entry(0, 3)},"b":${entry(3, 3, [3, 0, 7])}}`, 3));
    expect(header.tensors.get('b')!.shape).toEqual([3, 0, 7]);
  });

  test('names that mean something in JavaScript are names', () => {
    const names = ['__proto__', 'constructor', 'toString', 'hasOwnProperty'];
    const header = parse(rawFile(`{${names.map((name, i) => `"${name}":${entry(i, i + 1)}`)}}`, names.length));
    expect([...header.tensors.keys()]).toEqual(names);
    expect(({} as { dtype?: unknown }).dtype).toBeUndefined();
    const meta = parse(rawFile('{"__metadata__":{"__proto__":"x"}}'));
    expect([...meta.metadata]).toEqual([['__proto__', 'x']]);
  });

  test('escapes and unicode in names', () => {
    const header = parse(rawFile(`{"\\u0061\\n\\"é🦙":${entry(0, 1)}}`, 1));
    expect([...header.tensors.keys()]).toEqual(['a\n"é🦙']);
  });
});

describe('unsound headers name file and tensor', () => {
  const cases: readonly (readonly [what: string, bytes: Uint8Array, message: RegExp])[] = [
    ['empty file', new Uint8Array(0), /too few/],
    ['8 bytes', new Uint8Array(8), /too few/],
    ['length over the bound', rawFile('{}', 0, 100_000_001n), /100000001 bytes, more than/],
    ['length of 2^64 - 1', rawFile('{}', 0, 0xffff_ffff_ffff_ffffn), /18446744073709551615/],
    ['length over the file', rawFile('{}', 0, 50n), /claims 50 bytes/],
    ['not JSON', rawFile('hello, world'), /not a JSON object/],
    ['leading space', rawFile(' {}'), /not a JSON object/],
    ['array', rawFile('[1,2]'), /not a JSON object/],
    ['cut JSON', rawFile(`{"a":${entry(0, 1)}`, 1), /early end/],
    ['text after', rawFile(`{"a":${entry(0, 1)}} x`, 1), /text after/],
    ['not UTF-8', rawFile(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x7d)), /not UTF-8/],
    ['byte order mark', rawFile('\ufeff{}'), /not a JSON object/],
    ['duplicate names', rawFile(`{"a":${entry(0, 1)},"a":${entry(0, 1)}}`, 1), /"a" twice/],
    ['duplicate names, one escaped', rawFile(`{"a":${entry(0, 1)},"\\u0061":${entry(0, 1)}}`, 1), /"a" twice/],
    ['duplicate keys of an entry', rawFile('{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1), /"dtype" twice/],
    ['duplicate metadata', rawFile('{"__metadata__":{"a":"1","a":"2"}}'), /"a" twice/],
    ['metadata that is no map', rawFile('{"__metadata__":"x"}'), /__metadata__/],
    ['metadata that is no string', rawFile('{"__metadata__":{"a":1}}'), /"a" is not a string/],
    ['deep nesting', rawFile(`{"a":${'['.repeat(100_000)}`), /nesting/],
    ['a flood of values', rawFile(`{"a":[${'[],'.repeat(6_000_000)}[]]}`), /more than 5000000 values/],
    ['entry that is no object', rawFile('{"a":3}'), /"a".*not an object/],
    ['no dtype', rawFile('{"a":{"shape":[1],"data_offsets":[0,1]}}', 1), /"a".*no dtype/],
    ['unknown dtype', rawFile(`{"a":${entry(0, 1, [1], 'Q4')}}`, 1), /"a".*unknown dtype "Q4"/],
    ['dtype from the prototype', rawFile(`{"a":${entry(0, 1, [1], 'constructor')}}`, 1), /"a".*unknown dtype/],
    ['no shape', rawFile('{"a":{"dtype":"U8","data_offsets":[0,1]}}', 1), /"a".*no shape/],
    ['negative extent', rawFile(`{"a":${entry(0, 1, [-1])}}`, 1), /"a".*whole numbers/],
    ['fractional extent', rawFile(`{"a":${entry(0, 1, [1.5])}}`, 1), /"a".*whole numbers/],
    ['exponent', rawFile('{"a":{"dtype":"U8","shape":[1e0],"data_offsets":[0,1]}}', 1), /"a".*whole numbers/],
    ['huge extent', rawFile('{"a":{"dtype":"U8","shape":[9007199254740993],"data_offsets":[0,1]}}', 1), /"a".*whole numbers/],
    ['extents that overflow', rawFile(`{"a":${entry(0, 1, [2 ** 40, 2 ** 40])}}`, 1), /"a".*overflows/],
    ['string extent', rawFile('{"a":{"dtype":"U8","shape":["1"],"data_offsets":[0,1]}}', 1), /"a".*whole numbers/],
    ['no offsets', rawFile('{"a":{"dtype":"U8","shape":[1]}}', 1), /"a".*data_offsets/],
    ['three offsets', rawFile('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}}', 1), /"a".*data_offsets/],
    ['offsets backwards', rawFile('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}', 1), /"a".*no range/],
    [
      'offsets beyond 2^53',
      rawFile('{"a":{"dtype":"U8","shape":[1],"data_offsets":[99999999999999999999,100000000000000000000]}}', 1),
      /"a".*no range/,
    ],
    ['too few bytes for the shape', rawFile(`{"a":${entry(0, 4, [2], 'F32')}}`, 4), /"a".*takes 8 bytes.*hold 4/],
    ['overlap', rawFile(`{"a":${entry(0, 4)},"b":${entry(3, 6)}}`, 6), /"b".*overlaps/],
    ['same place twice', rawFile(`{"a":${entry(0, 4)},"b":${entry(0, 4)}}`, 4), /overlaps/],
    ['hole', rawFile(`{"a":${entry(0, 4)},"b":${entry(5, 6)}}`, 6), /"b".*belong to no tensor/],
    ['hole at the start', rawFile(`{"a":${entry(1, 4)}}`, 4), /"a".*1 bytes before/],
    ['truncated file', rawFile(`{"a":${entry(0, 4)}}`, 3), /"a".*cut off/],
    ['bytes after the end', rawFile(`{"a":${entry(0, 4)}}`, 5), /1 bytes follow/],
    ['control character in a name', rawFile('{"a\u0001":1}'), /control character/],
    ['half a surrogate pair', rawFile(`{"\\ud800":${entry(0, 1)}}`, 1), /surrogate/],
    ['bad escape', rawFile('{"a\\x":1}'), /bad escape/],
  ];
  test.each(cases)('%s', async (_what, bytes, message) => {
    const error = await failure(() => parse(bytes));
    expect(error.code).toBe('ERR_BAD_SAFETENSORS');
    expect(error.message).toMatch(message);
    expect(error.message).toContain('f.safetensors');
    expect(error.hint).toBeTruthy();
  });

  test.each(['F8_E4M3', 'F8_E5M2', 'U64', 'F4'])('%s is known but not held', async (dtype) => {
    const error = await failure(() => parse(rawFile(`{"w":${entry(0, 1, [1], dtype)}}`, 1)));
    expect(error.code).toBe('ERR_UNSUPPORTED_FORMAT');
    expect(error.message).toContain(dtype);
    expect(error.details).toMatchObject({ tensor: 'w', dtype });
  });

  test('a name of a megabyte is cut in the message', async () => {
    const name = 'n'.repeat(1 << 20);
    const error = await failure(() => parse(rawFile(`{"${name}":3}`)));
    expect(error.message.length).toBeLessThan(400);
  });
});

describe('fuzzing', () => {
  const sound = rawFile(`{"__metadata__":{"format":"pt"},"a.weight":${entry(0, 8, [2, 2], 'F16')},"b":${entry(8, 12, [1], 'F32')}}`, 12);

  test('changed bytes fail as LowbitError or not at all', () => {
    const edit = fc.tuple(fc.nat(sound.byteLength - 1), fc.integer({ min: 0, max: 255 }));
    fc.assert(
      fc.property(fc.array(edit, { minLength: 1, maxLength: 6 }), fc.nat(40), (edits, cut) => {
        const bytes = sound.slice(0, sound.byteLength - cut);
        for (const [at, value] of edits) if (at < bytes.byteLength) bytes[at] = value;
        try {
          const { tensors } = parse(bytes);
          for (const { start, end } of tensors.values()) expect(start >= 8 && end <= bytes.byteLength).toBe(true);
        } catch (error) {
          expect(isLowbitError(error)).toBe(true);
        }
      }),
      { numRuns: 3000 },
    );
  });

  test('any JSON as header fails as LowbitError or not at all', () => {
    fc.assert(
      fc.property(fc.json(), fc.nat(64), (text, data) => {
        try {
          parse(rawFile(text, data));
        } catch (error) {
          expect(isLowbitError(error)).toBe(true);
        }
      }),
      { numRuns: 500 },
    );
  });
});
