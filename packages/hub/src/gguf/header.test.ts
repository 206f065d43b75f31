import { readFileSync } from 'node:fs';
import { LowbitError } from '@lowbit/core';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { goldenPath } from '../../../../fixtures/golden.ts';
import { type GgufValue, MAX_GGUF_HEADER, parseGguf } from './header.ts';
import { ggufMetadata, shortest } from './metadata.ts';
import { f32Bytes, type GgufToWrite, SMALL_LLAMA, smallLlamaTensors, type TensorToWrite, text, u32, u64, writeGguf } from './testing.ts';

const parse = (bytes: Uint8Array, size = bytes.byteLength) => parseGguf(bytes, size, 'm.gguf');
const vector = (name: string, count: number, more: Partial<TensorToWrite> = {}): TensorToWrite => ({
  name,
  shape: [count],
  type: 0,
  data: f32Bytes(new Float32Array(count)),
  ...more,
});
const file = (more: Partial<GgufToWrite>) => writeGguf({ metadata: {}, tensors: [], ...more });

/** What it throws; undefined if it does not. */
function thrown(work: () => unknown): LowbitError | undefined {
  try {
    work();
  } catch (error) {
    if (error instanceof LowbitError) return error;
    throw error;
  }
  return undefined;
}

describe('what is there', () => {
  test.each([2, 3])('version %i: every kind of value, tensors, alignment', (version) => {
    const bytes = file({
      version,
      alignment: 64,
      metadata: {
        a: { u32: 7 },
        b: { f32: 0.5 },
        c: { u64: 2n ** 60n },
        d: { flag: true },
        e: { text: 'süß' },
        f: { texts: ['x', '', 'ÿ'] },
        g: { i32s: [-1, 2] },
        h: { f32s: [1.5] },
      },
      tensors: [vector('one', 3), { name: 'two', shape: [2, 32], type: 8, data: new Uint8Array(68) }],
    });
    const header = parse(bytes)!;
    expect(header.version).toBe(version);
    expect(Object.fromEntries(header.metadata)).toEqual({
      a: 7,
      b: 0.5,
      c: 2n ** 60n,
      d: true,
      e: 'süß',
      f: ['x', '', 'ÿ'],
      g: Int32Array.of(-1, 2),
      h: Float32Array.of(1.5),
      'general.alignment': 64,
    });
    expect(header.dataStart % 64).toBe(0);
    const { dataStart } = header;
    expect(
      [...header.tensors].map(([name, { type, shape, start, end }]) => [name, type.name, shape, start - dataStart, end - dataStart]),
    ).toEqual([
      ['one', 'F32', [3], 0, 12],
      ['two', 'Q8_0', [2, 32], 64, 132],
    ]);
  });

  test('a part of the front asks for more, up to the whole of it', () => {
    const bytes = writeGguf({ metadata: SMALL_LLAMA, tensors: smallLlamaTensors() });
    const whole = parse(bytes)!;
    const end = whole.dataStart - 31;
    for (let length = 0; length < end; length += 7) expect(parse(bytes.subarray(0, length), bytes.byteLength)).toBeUndefined();
    expect(parse(bytes.subarray(0, whole.dataStart), bytes.byteLength)).toEqual(whole);
  });

  test('numbers by their shortest spelling', () => {
    expect([1e-5, 1e-6, 10_000, 500_000, 0.1, 1 / 3].map((value) => shortest(Math.fround(value)))).toEqual([
      1e-5, 1e-6, 10_000, 500_000, 0.1, 0.33333334,
    ]);
    expect(shortest(1 / 3)).toBe(1 / 3);
  });

  test('metadata of another type than asked for is refused by its key', () => {
    const meta = ggufMetadata(
      new Map<string, GgufValue>([
        ['general.architecture', 'llama'],
        ['llama.block_count', 'six'],
        ['llama.x', 2n ** 63n],
      ]),
      'm.gguf',
    );
    expect(() => meta.count('block_count')).toThrow('m.gguf: "llama.block_count" is not a whole number from 1');
    expect(() => meta.whole('x')).toThrow('is not a whole number');
    expect(() => meta.count('y')).toThrow('it has no llama.y');
    expect(() => ggufMetadata(new Map(), 'm.gguf')).toThrow('no general.architecture');
  });
});

describe('files that lie', () => {
  const front = (version: number, tensors: bigint | number, keys: bigint | number, ...rest: Buffer[]) =>
    Buffer.concat([Buffer.from('GGUF'), u32(version), u64(tensors), u64(keys), ...rest]);
  const key = (name: string, type: number, ...rest: Buffer[]) => Buffer.concat([text(name), u32(type), ...rest]);
  const nested = (depth: number): Buffer =>
    depth === 0 ? Buffer.concat([u32(4), u64(0)]) : Buffer.concat([u32(9), u64(1), nested(depth - 1)]);
  const info = (name: string, dimensions: (number | bigint)[], type = 0, offset: number | bigint = 0) =>
    Buffer.concat([text(name), u32(dimensions.length), ...dimensions.map(u64), u32(type), u64(offset)]);

  test.each<[string, Buffer, string, RegExp]>([
    ['another magic', Buffer.from('GGML\x03\0\0\0'), 'ERR_BAD_CHECKPOINT', /does not begin with GGUF/],
    ['empty', Buffer.alloc(0), 'ERR_BAD_CHECKPOINT', /ends at byte 0/],
    ['version 1', front(1, 0, 0), 'ERR_UNSUPPORTED_FORMAT', /version 1/],
    ['version 4', front(4, 0, 0), 'ERR_UNSUPPORTED_FORMAT', /version 4/],
    ['big-endian', front(0x03000000, 0, 0), 'ERR_UNSUPPORTED_FORMAT', /big-endian/],
    ['2^63 tensors', front(3, 2n ** 63n, 0), 'ERR_BAD_CHECKPOINT', /9223372036854775808 tensors/],
    ['2^32 keys', front(3, 0, 2 ** 32), 'ERR_BAD_CHECKPOINT', /4294967296 keys/],
    ['a key longer than the file', front(3, 0, 1, u64(60_000)), 'ERR_BAD_CHECKPOINT', /within its metadata/],
    ['a key of 2^63 bytes', front(3, 0, 1, u64(2n ** 63n)), 'ERR_BAD_CHECKPOINT', /bytes of a key/],
    ['a key that is not UTF-8', front(3, 0, 1, u64(1), Buffer.from([0xff])), 'ERR_BAD_CHECKPOINT', /not UTF-8/],
    ['a text longer than any', front(3, 0, 1, key('a', 8, u64(2 ** 40))), 'ERR_BAD_CHECKPOINT', /bytes of a text/],
    ['a value type that there is not', front(3, 0, 1, key('a', 13)), 'ERR_BAD_CHECKPOINT', /type 13/],
    ['a list type that there is not', front(3, 0, 1, key('a', 9, u32(99), u64(0))), 'ERR_BAD_CHECKPOINT', /list of type 99/],
    ['a list longer than the file', front(3, 0, 1, key('a', 9, u32(12), u64(2 ** 24))), 'ERR_BAD_CHECKPOINT', /within its metadata/],
    ['a list of too many texts', front(3, 0, 1, key('a', 9, u32(8), u64(2 ** 23))), 'ERR_BAD_CHECKPOINT', /4194304 texts/],
    ['lists too deep', front(3, 0, 1, key('a', 9, nested(50))), 'ERR_BAD_CHECKPOINT', /deeper than 4/],
    ['a key twice', front(3, 0, 2, key('a', 4, u32(1)), key('a', 4, u32(1))), 'ERR_BAD_CHECKPOINT', /"a" is there twice/],
    ['an alignment of 24', file({ metadata: { 'general.alignment': { u32: 24 } } }), 'ERR_BAD_CHECKPOINT', /alignment is 24/],
    ['an alignment of 0', file({ metadata: { 'general.alignment': { u32: 0 } } }), 'ERR_BAD_CHECKPOINT', /alignment is 0/],
    ['an alignment of 2^31', file({ metadata: { 'general.alignment': { u32: 2 ** 31 } } }), 'ERR_BAD_CHECKPOINT', /alignment/],
    ['an alignment that is a text', file({ metadata: { 'general.alignment': { text: '32' } } }), 'ERR_BAD_CHECKPOINT', /alignment/],
    ['no dimensions', front(3, 1, 0, info('t', [])), 'ERR_BAD_CHECKPOINT', /0 dimensions/],
    ['5 dimensions', front(3, 1, 0, info('t', [1, 1, 1, 1, 1])), 'ERR_BAD_CHECKPOINT', /5 dimensions/],
    ['a dimension of 0', front(3, 1, 0, info('t', [0])), 'ERR_BAD_CHECKPOINT', /dimension of 0/],
    ['a shape that overflows', front(3, 1, 0, info('t', [2 ** 40, 2 ** 40])), 'ERR_BAD_CHECKPOINT', /overflows/],
    ['an offset of 2^63', front(3, 1, 0, info('t', [1], 0, 2n ** 63n)), 'ERR_BAD_CHECKPOINT', /begins at byte/],
    ['an unknown type', front(3, 1, 0, info('t', [32], 77)), 'ERR_UNSUPPORTED_FORMAT', /type 77/],
    ['rows that are no whole blocks', front(3, 1, 0, info('t', [33], 8)), 'ERR_BAD_CHECKPOINT', /rows of 33/],
    ['a tensor past the end', front(3, 1, 0, info('t', [1024])), 'ERR_BAD_CHECKPOINT', /ends at byte/],
    [
      'an offset that is not aligned',
      file({ tensors: [vector('t', 8, { offset: 8 }), vector('u', 8)] }),
      'ERR_BAD_CHECKPOINT',
      /no multiple of 32/,
    ],
    [
      'tensors that overlap',
      file({ tensors: [vector('t', 16), vector('u', 8, { offset: 32 })] }),
      'ERR_BAD_CHECKPOINT',
      /"u" overlaps "t"/,
    ],
    ['a tensor twice', file({ tensors: [vector('t', 8), vector('t', 8)] }), 'ERR_BAD_CHECKPOINT', /"t": it is there twice/],
  ])('%s', (_, bytes, code, message) => {
    const error = thrown(() => parse(bytes))!;
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
    expect(error.hint).toBeTruthy();
  });

  test('metadata over its bound is ERR_LIMIT, whatever the file is', () => {
    const bytes = front(3, 0, 2, key('a', 9, u32(0), u64(MAX_GGUF_HEADER - 60)));
    const size = 2 * MAX_GGUF_HEADER;
    expect(parse(bytes, size)).toBeUndefined();
    const zeros = new Uint8Array(MAX_GGUF_HEADER);
    zeros.set(bytes);
    expect(thrown(() => parse(zeros, size))?.code).toBe('ERR_LIMIT');
  });

  test('cut anywhere: an error, never another model', () => {
    const bytes = new Uint8Array(readFileSync(goldenPath('gguf/tiny.gguf')));
    const { dataStart } = parse(bytes)!;
    fc.assert(
      fc.property(fc.integer({ min: 0, max: bytes.byteLength - 33 }), (length) => {
        expect(thrown(() => parse(bytes.subarray(0, length)))?.code).toBe('ERR_BAD_CHECKPOINT');
      }),
      { seed: 12, numRuns: 300, examples: [[0], [4], [dataStart - 1], [dataStart]] },
    );
  });

  test('bytes changed anywhere: what is read stays inside of the file, and nothing but a typed error is thrown', () => {
    const bytes = new Uint8Array(readFileSync(goldenPath('gguf/tiny.gguf')));
    const { dataStart } = parse(bytes)!;
    let read = 0;
    let refused = 0;
    const change = fc.tuple(fc.integer({ min: 0, max: dataStart - 1 }), fc.integer({ min: 0, max: 255 }));
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 6 }), (changes) => {
        const damaged = bytes.slice();
        for (const [at, byte] of changes) damaged[at] = byte;
        const error = thrown(() => {
          for (const { type, shape, start, end } of parse(damaged)!.tensors.values()) {
            expect(start).toBeGreaterThanOrEqual(24);
            expect(end).toBeLessThanOrEqual(damaged.byteLength);
            expect(end - start).toBe((shape.reduce((a, b) => a * b) / type.block) * type.bytes);
          }
        });
        if (error === undefined) read++;
        else {
          refused++;
          expect(['ERR_BAD_CHECKPOINT', 'ERR_UNSUPPORTED_FORMAT', 'ERR_LIMIT']).toContain(error.code);
        }
      }),
      { seed: 12, numRuns: 1000 },
    );
    expect(Math.min(read, refused)).toBeGreaterThan(50);
  });

  test('random bytes after the magic', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        thrown(() => parse(Buffer.concat([Buffer.from('GGUF'), u32(3), bytes])));
      }),
      { seed: 12, numRuns: 1000 },
    );
  });
});
