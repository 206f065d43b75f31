import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { goldenJson, goldenTensors } from '../../../../fixtures/golden.ts';
import { DTYPE_BYTES, elementCount } from '../dtype.ts';
import {
  fluteName,
  fluteRows,
  isLanePacking,
  isTilePacking,
  type LanePacking,
  PACKINGS,
  type Packing,
  packing,
  packLanes,
  rowBitsName,
  type TilePacking,
} from './index.ts';

interface Case {
  readonly name: string;
  readonly file?: string;
  readonly tensors: Readonly<Record<string, string>>;
  readonly packing: string;
  readonly groups_shape: readonly [number, number];
}

const all = Object.values(PACKINGS);
const lanePackings = all.filter(isLanePacking);

/** A packing, a matrix that fits it, and codes. */
const packed = fc
  .record({ packing: fc.constantFrom(...all), rows: fc.integer({ min: 1, max: 33 }), columns: fc.integer({ min: 1, max: 9 }) })
  .chain(({ packing, rows, columns }) => {
    const [high, wide] = fitting(packing, rows, columns);
    const count = high * wide;
    // Tiles are large: filled from a few drawn bytes, which shrink faster.
    const codes = fc
      .uint8Array({ minLength: 1, maxLength: Math.min(count, 600) })
      .map((some) => Uint8Array.from({ length: count }, (_, i) => (some[i % some.length]! + i * (i >> 9)) & (2 ** packing.bits - 1)));
    return fc.record({ packing: fc.constant(packing), rows: fc.constant(high), columns: fc.constant(wide), codes });
  });

/** The next matrix that the packing takes. */
function fitting(packing: Packing, rows: number, columns: number): [rows: number, columns: number] {
  if (isTilePacking(packing) && packing.tileRows > 1) return [packing.tileRows * (1 + (rows % 3)), 2 * columns];
  return [isLanePacking(packing) && packing.name !== '3bit_32' ? rows * packing.lanes : rows, columns];
}

describe('HQQ goldens', () => {
  const tensors = goldenTensors('hqq/quantize.safetensors');
  const cases = goldenJson<{ cases: Case[] }>('hqq/cases.json').cases.filter((c) => c.file === 'quantize.safetensors');

  it('has every packing of HQQ, axis and view', () => {
    expect(cases.length).toBe(186);
    expect(new Set(cases.map((c) => c.packing))).toEqual(new Set(lanePackings.map((p) => p.name)));
    expect(cases.some((c) => tensors.get(c.tensors['expected.W_q']!)!.dtype === 'bf16')).toBe(true);
  });

  it.each(cases)('$name', (c) => {
    const [rows, columns] = c.groups_shape;
    const published = tensors.get(c.tensors['expected.W_q']!)!;
    const codes = tensors.get(c.tensors['expected.codes']!)!;
    const p = packing(c.packing);
    expect(codes.dtype).toBe('u8');
    expect(p.pack(codes.data, rows, columns)).toEqual(published.data);
    expect(p.unpack(published.data, rows, columns)).toEqual(codes.data);
    if (published.dtype === p.dtype) expect(p.shape(rows, columns)).toEqual(published.shape);
  });
});

describe('every packing', () => {
  it('gives back what was packed, in as many bytes as its shape says', () => {
    fc.assert(
      fc.property(packed, ({ packing: p, rows, columns, codes }) => {
        const bytes = p.pack(codes, rows, columns);
        expect(bytes.length).toBe(elementCount(p.shape(rows, columns)) * DTYPE_BYTES[p.dtype]);
        expect(p.unpack(bytes, rows, columns)).toEqual(codes);
      }),
      { numRuns: 500 },
    );
  });

  it('unpacks a range as that slice of the whole, at any byte offset, and touches nothing else', () => {
    fc.assert(
      fc.property(packed, fc.nat(), fc.nat(), fc.integer({ min: 0, max: 3 }), ({ packing: p, rows, columns, codes }, a, b, offset) => {
        const [from, to] = [a % (codes.length + 1), b % (codes.length + 1)].sort((x, y) => x - y) as [number, number];
        const bytes = p.pack(codes, rows, columns);
        const shifted = new Uint8Array(bytes.length + offset).subarray(offset);
        shifted.set(bytes);
        const into = new Uint8Array(to - from + 2).fill(0xaa);
        p.unpackRange(shifted, rows, columns, from, to, into);
        expect(into).toEqual(Uint8Array.of(...codes.subarray(from, to), 0xaa, 0xaa));
      }),
      { numRuns: 500 },
    );
  });

  it.each(all)('$name refuses codes that are too wide, too few or too many', (p: Packing) => {
    const [rows, columns] = fitting(p, 5, 3);
    const codes = new Uint8Array(rows * columns);
    expect(() => p.pack(codes.subarray(1), rows, columns)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
    expect(() => p.pack(new Uint8Array(rows * columns + 1), rows, columns)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
    codes[10] = 2 ** p.bits - 1;
    expect(() => p.pack(codes, rows, columns)).not.toThrow();
    if (p.bits === 8) return;
    codes[10] = 2 ** p.bits;
    expect(() => p.pack(codes, rows, columns)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
  });

  it.each(all)('$name refuses packed data of a wrong length and ranges outside of the matrix', (p: Packing) => {
    const [rows, columns] = fitting(p, 5, 3);
    const count = rows * columns;
    const bytes = p.pack(new Uint8Array(count), rows, columns);
    const into = new Uint8Array(count);
    expect(() => p.unpack(bytes.subarray(1), rows, columns)).toThrow(expect.objectContaining({ code: 'ERR_TENSOR_MISMATCH' }));
    for (const [from, to] of [
      [-1, 3],
      [4, 3],
      [0, count + 1],
    ] as const) {
      expect(() => p.unpackRange(bytes, rows, columns, from, to, new Uint8Array(2 * count))).toThrow(
        expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }),
      );
    }
    expect(() => p.unpackRange(bytes, rows, columns, 0, count, into.subarray(1))).toThrow(
      expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }),
    );
  });
});

describe('lane packings', () => {
  it.each([
    ['4bit_u8', 15, 2],
    ['2bit_u8', 18, 4],
    ['1bit_u8', 12, 8],
  ] as const)('%s refuses %i rows, and says of what they must be a multiple', (name, rows, multiple) => {
    const p = packing(name) as LanePacking;
    for (const call of [() => p.shape(rows, 4), () => p.pack(new Uint8Array(rows * 4), rows, 4), () => p.wordRows(rows)]) {
      expect(call).toThrow(
        expect.objectContaining({
          code: 'ERR_UNSUPPORTED_FORMAT',
          hint: expect.stringContaining(`multiple of ${multiple}`),
          details: { packing: name, rows, multiple },
        }),
      );
    }
  });

  it('writes the blocks of a streaming quantizer as it writes the whole matrix', () => {
    const matrix = packed.filter(({ packing: p }) => isLanePacking(p));
    fc.assert(
      fc.property(matrix, fc.integer({ min: 1, max: 5 }), fc.boolean(), ({ packing: p, rows, columns, codes }, block, aligned) => {
        const lane = p as LanePacking;
        const words = lane.wordRows(rows);
        const width = DTYPE_BYTES[lane.dtype];
        const offset = aligned ? 0 : 1;
        const result = new Uint8Array(offset + words * columns * width).subarray(offset).fill(0xff);
        for (let a = 0; a < words; a += block) {
          const b = Math.min(words, a + block);
          const laneCodes = Array.from({ length: lane.lanes }, (_, l) => {
            const own = new Uint8Array((b - a) * columns);
            own.set(codes.subarray((l * words + a) * columns, (l * words + b) * columns));
            return own;
          });
          packLanes(lane, laneCodes, result.subarray(a * columns * width, b * columns * width));
        }
        expect(result).toEqual(lane.pack(codes, rows, columns));
      }),
      { numRuns: 300 },
    );
  });

  it('leaves the top two bits of a 3-bit word zero, and its first row in the highest field', () => {
    const bytes = packing('3bit_32').pack(Uint8Array.of(7, ...new Uint8Array(8), 1), 10, 1);
    expect(new Int32Array(bytes.buffer)[0]).toBe((7 << 27) | 1);
  });

  it('refuses the wrong number of lanes, and a lane longer than the block', () => {
    const four = packing('4bit_u8') as LanePacking;
    for (const [lanes, bytes] of [
      [1, 3],
      [3, 3],
      [2, 2],
    ] as const) {
      const laneCodes = Array.from({ length: lanes }, () => new Uint8Array(3));
      expect(() => packLanes(four, laneCodes, new Uint8Array(bytes))).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
    }
    const three = packing('3bit_32') as LanePacking;
    const laneCodes = Array.from({ length: 10 }, () => new Uint8Array(1));
    expect(() => packLanes(three, laneCodes, new Uint8Array(6))).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
  });
});

describe('tile packings', () => {
  const tilePackings = all.filter(isTilePacking);

  it('write and read tiles as the whole matrix', () => {
    const matrix = packed.filter(({ packing: p }) => isTilePacking(p));
    fc.assert(
      fc.property(matrix, ({ packing: p, rows, columns, codes }) => {
        const tiles = p as TilePacking;
        const width = DTYPE_BYTES[tiles.dtype];
        const whole = tiles.pack(codes, rows, columns);
        const result = new Uint8Array(whole.length);
        const written = new Uint8Array(whole.length);
        for (let tile = 0; tile < rows / tiles.tileRows; tile++) {
          const own = codes.subarray(tile * tiles.tileRows * columns, (tile + 1) * tiles.tileRows * columns);
          for (const { at, data } of tiles.packTile(own, tile, rows, columns)) {
            result.set(data, at * width);
            for (let i = at * width; i < at * width + data.length; i++) written[i]!++;
          }
          const runs = tiles.tileRuns(tile, rows, columns).map(({ at, count }) => whole.subarray(at * width, (at + count) * width));
          expect(Buffer.compare(tiles.unpackTile(Uint8Array.from(Buffer.concat(runs)), tile, rows, columns), own)).toBe(0);
        }
        expect(result).toEqual(whole);
        expect(written.every((times) => times === 1)).toBe(true);
      }),
      { numRuns: 200 },
    );
  });

  it.each(tilePackings)('$name refuses tiles that are not there', (p) => {
    const [rows, columns] = fitting(p, 3, 4);
    const codes = new Uint8Array(p.tileRows * columns);
    for (const tile of [-1, 0.5, rows / p.tileRows]) {
      const bad = expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' });
      expect(() => p.packTile(codes, tile, rows, columns)).toThrow(bad);
      expect(() => p.tileRuns(tile, rows, columns)).toThrow(bad);
      expect(() => p.unpackTile(codes, tile, rows, columns)).toThrow(bad);
    }
    expect(() => p.unpackTile(new Uint8Array(0), 0, rows, columns)).toThrow(expect.objectContaining({ code: 'ERR_TENSOR_MISMATCH' }));
    expect(() => p.packTile(codes.subarray(1), 0, rows, columns)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
  });

  it('rows are streams of bits, the least significant first', () => {
    expect(packing('row_bits3').pack(Uint8Array.of(1, 2, 3, 7, 0, 5), 2, 3)).toEqual(Uint8Array.of(0b11010001, 0, 0b01000111, 1));
    expect(packing('row_bits6').pack(Uint8Array.of(63, 1, 2), 1, 3)).toEqual(Uint8Array.of(0b01111111, 0b00100000, 0));
    expect(packing('row_bits2').shape(3, 5)).toEqual([3, 2]);
    expect(rowBitsName(6)).toBe('row_bits6');
    expect(() => rowBitsName(5)).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED_FORMAT' }));
  });
});

describe('FLUTE', () => {
  const tensors = goldenTensors('higgs/pack.safetensors');
  const cases = [2, 3, 4].flatMap((bits) => ([32, 64] as const).map((tile) => ({ name: `b${bits}-t${tile}`, bits, tile })));

  it('has a golden of every number of bits and tile', () => {
    expect([...tensors.keys()].sort()).toEqual(cases.flatMap(({ name }) => [`${name}.levels`, `${name}.packed`]).sort());
  });

  describe.each(cases)('$name', ({ name, bits, tile }) => {
    const levels = tensors.get(`${name}.levels`)!;
    const published = tensors.get(`${name}.packed`)!;
    const [inputs, out] = levels.shape as [number, number];
    // codes[n][k] = levels[k][n]; pairs have the earlier input in the high half.
    const single = Uint8Array.from({ length: out * inputs }, (_, i) => levels.data[(i % inputs) * out + Math.floor(i / inputs)]!);
    const pairs = Uint8Array.from({ length: single.length / 2 }, (_, i) => (single[2 * i]! << bits) | single[2 * i + 1]!);

    it.each([1, 2])('packs and unpacks codes of %i weights', (dim) => {
      const p = packing(fluteName(bits, dim, tile)) as TilePacking;
      const codes = dim === 1 ? single : pairs;
      expect(p.tileRows).toBe(fluteRows(bits, tile));
      expect(p.shape(out, inputs / dim)).toEqual(published.shape);
      expect(p.dtype).toBe(published.dtype);
      expect(p.pack(codes, out, inputs / dim)).toEqual(published.data);
      expect(p.unpack(published.data, out, inputs / dim)).toEqual(codes);
    });
  });

  // Specification, section 9.1: L[k][n] = (5 k + 3 n + floor(n / 32)) mod 2^b, four inputs.
  it.each([
    [4, 32, 128, { 0: [5637, 14375, -20305, -11583], 31: [-7214, 1524, -29316, -20578] }],
    [4, 64, 256, { 0: [9989, 27465, -15953, 1507], 63: [1507, 18727, -20595, -7231] }],
    [2, 32, 256, { 0: [-13471, -13471, 25035, 25035], 31: [7350, 7350, -18916, -18916] }],
    [3, 32, 512, { 0: [13829, 8507, 23191, -19616], 32: [-14258, -5537, -4904, -892], 95: [-23044, -26602, -14258, -5537] }],
  ] as [number, 32 | 64, number, Record<number, number[]>][])(
    'the words of the specification, %i bits in tiles of %i',
    (bits, tile, out, rows) => {
      const level = (k: number, n: number): number => (5 * k + 3 * n + Math.floor(n / 32)) % 2 ** bits;
      const codes = Uint8Array.from({ length: 4 * out }, (_, i) => level(i % 4, Math.floor(i / 4)));
      const words = new Int16Array(packing(fluteName(bits, 1, tile)).pack(codes, out, 4).buffer);
      for (const [row, expected] of Object.entries(rows)) expect([...words.subarray(4 * +row, 4 * +row + 4)]).toEqual(expected);
    },
  );

  it('reads 63 in every field of words of ones', () => {
    const p = packing('flute3_p2_t32');
    expect(p.unpack(new Uint8Array(96 * 2 * 2).fill(0xff), 512, 1)).toEqual(new Uint8Array(512).fill(63));
  });

  it('refuses shapes that do not fit, with the rule and what to do', () => {
    for (const [name, rows, multiple] of [
      ['flute4_p2_t32', 192, 128],
      ['flute2_p1_t32', 384, 256],
      ['flute3_p2_t32', 768, 512],
    ] as const) {
      expect(() => packing(name).shape(rows, 4)).toThrow(
        expect.objectContaining({
          code: 'ERR_UNSUPPORTED_FORMAT',
          message: expect.stringContaining(`a multiple of ${multiple}`),
          hint: expect.stringContaining('row_bits'),
        }),
      );
    }
    expect(() => packing('flute4_p2_t64').shape(128, 4)).toThrow(expect.objectContaining({ hint: expect.stringContaining('tiles of 32') }));
    expect(() => packing('flute4_p1_t32').shape(128, 3)).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED_FORMAT' }));
  });
});

describe('flat packings', () => {
  it('put the first nibble high, and fill up an odd count', () => {
    const p = packing('bnb_nibble');
    expect(p.pack(Uint8Array.of(1, 2, 15), 1, 3)).toEqual(Uint8Array.of(0x12, 0xf0));
    expect(p.unpack(Uint8Array.of(0x12, 0xf7), 3, 1)).toEqual(Uint8Array.of(1, 2, 15));
    expect(p.shape(3, 1)).toEqual([2, 1]);
    expect(packing('u8').shape(3, 5)).toEqual([15]);
  });
});

it.each(['9bit_u8', '', 'constructor', '__proto__'])("refuses the unknown packing '%s'", (name) => {
  expect(() => packing(name)).toThrow(
    expect.objectContaining({ code: 'ERR_UNSUPPORTED_FORMAT', hint: expect.stringContaining('4bit_u8') }),
  );
});
