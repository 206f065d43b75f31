import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { goldenJson, goldenTensors } from '../../../../fixtures/golden.ts';
import { DTYPE_BYTES, elementCount } from '../dtype.ts';
import { isLanePacking, type LanePacking, PACKINGS, type Packing, packing, packLanes } from './index.ts';

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
    const multiple = isLanePacking(packing) && packing.name !== '3bit_32' ? packing.lanes : 1;
    const count = rows * multiple * columns;
    const codes = fc.uint8Array({ minLength: count, maxLength: count, max: 2 ** packing.bits - 1 });
    return fc.record({ packing: fc.constant(packing), rows: fc.constant(rows * multiple), columns: fc.constant(columns), codes });
  });

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
    const codes = new Uint8Array(40 * 3);
    expect(() => p.pack(codes.subarray(1), 40, 3)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
    expect(() => p.pack(new Uint8Array(40 * 3 + 1), 40, 3)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
    codes[70] = 2 ** p.bits - 1;
    expect(() => p.pack(codes, 40, 3)).not.toThrow();
    if (p.bits === 8) return;
    codes[70] = 2 ** p.bits;
    expect(() => p.pack(codes, 40, 3)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
  });

  it.each(all)('$name refuses packed data of a wrong length and ranges outside of the matrix', (p: Packing) => {
    const bytes = p.pack(new Uint8Array(120), 40, 3);
    const into = new Uint8Array(120);
    expect(() => p.unpack(bytes.subarray(1), 40, 3)).toThrow(expect.objectContaining({ code: 'ERR_TENSOR_MISMATCH' }));
    for (const [from, to] of [
      [-1, 3],
      [4, 3],
      [0, 121],
    ] as const) {
      expect(() => p.unpackRange(bytes, 40, 3, from, to, new Uint8Array(200))).toThrow(
        expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }),
      );
    }
    expect(() => p.unpackRange(bytes, 40, 3, 0, 120, into.subarray(1))).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
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
