import { seededFloats } from '@lowbit/testing';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { dequantizeBlockwise, quantizeBlockwise } from './blockwise.ts';
import { dynamicMap } from './dynamic-map.ts';
import { mapBounds, nearestEntry } from './nearest.ts';

describe('8 bits in blocks', () => {
  it('finds the entry that counting finds', () => {
    const map = dynamicMap();
    const bounds = mapBounds(map);
    expect(bounds.length).toBe(255);
    const points = [...bounds, ...map, ...seededFloats(1, 2000), -2, 2];
    for (const x of points) expect(nearestEntry(bounds, x)).toBe(bounds.filter((bound) => bound < x).length);
    for (const [i, entry] of map.entries()) expect(nearestEntry(bounds, entry)).toBe(i);
  });

  it.each([64, 128, 256, 512, 1024, 2048, 4096])('blocks of %i: near every number, and exact at the largest positive one', (blockSize) => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 5000 }), fc.nat(), (count, seed) => {
        const values = seededFloats(seed, count, 3);
        const q = quantizeBlockwise(values, { blockSize });
        expect(q.absmax.length).toBe(Math.ceil(count / blockSize));
        const back = dequantizeBlockwise(q);
        const outside = values.findIndex((x, i) => {
          const largest = q.absmax[Math.floor(i / blockSize)]!;
          return x === largest ? back[i] !== x : !(Math.abs(x - back[i]!) <= 0.00706 * largest); // half the widest gap of the map is 0.00703
        });
        expect(outside).toBe(-1);
      }),
      { numRuns: 6 },
    );
  });

  it('defaults to blocks of 4096 and the signed map; copies are the caller’s', () => {
    const q = quantizeBlockwise(Float32Array.of(1, -1, 0));
    expect([q.blockSize, q.map]).toEqual([4096, dynamicMap()]);
    expect([...q.codes]).toEqual([255, 0, 127]);
    dynamicMap().fill(0);
    expect(dynamicMap()[255]).toBe(1);
  });

  it.each([
    [{ blocksize: 64 }, /no option blocksize/],
    [null, /object/],
    [new Map([['blockSize', 64]]), /plain object/],
    [{ blockSize: 32 }, /blockSize cannot be 32/],
    [{ blockSize: 100 }, /blockSize cannot be 100/],
    [{ map: new Float32Array(255) }, /256 ascending/],
    [{ map: dynamicMap().reverse() }, /256 ascending/],
    [{ map: [...dynamicMap()] }, /256 ascending/],
    [{ map: dynamicMap().fill(Number.NaN, 3, 4) }, /256 ascending/],
  ] as [never, RegExp][])('refuses %#', (options, message) => {
    expect(() => quantizeBlockwise(Float32Array.of(1), options)).toThrow(
      expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', message: expect.stringMatching(message), hint: expect.stringMatching(/./) }),
    );
  });

  it('refuses arrays of another kind', () => {
    const refused = (run: () => unknown, message: RegExp) =>
      expect(run).toThrow(
        expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', message: expect.stringMatching(message), hint: expect.stringMatching(/./) }),
      );
    for (const values of [[1, 2], Float64Array.of(1), Uint8Array.of(1), null, undefined]) {
      refused(() => quantizeBlockwise(values as never), /quantizeBlockwise: values must be a Float32Array/);
    }
    const q = quantizeBlockwise(Float32Array.of(1, 2));
    for (const codes of [[...q.codes], Int8Array.from(q.codes), Uint16Array.of(300), 'ab']) {
      refused(() => dequantizeBlockwise({ ...q, codes } as never), /dequantizeBlockwise: codes must be a Uint8Array/);
    }
    for (const absmax of [[2], Float64Array.of(2), undefined]) {
      refused(() => dequantizeBlockwise({ ...q, absmax } as never), /dequantizeBlockwise: absmax must be a Float32Array/);
    }
    refused(() => dequantizeBlockwise(null as never), /dequantizeBlockwise: /);
    for (const signed of ['false', 0, null]) refused(() => dynamicMap({ signed } as never), /dynamicMap: signed cannot be/);
  });

  it('refuses NaN, infinity, and too few magnitudes', () => {
    for (const bad of [Number.NaN, Number.NEGATIVE_INFINITY]) {
      expect(() => quantizeBlockwise(Float32Array.of(1, bad))).toThrow(
        expect.objectContaining({ code: 'ERR_NON_FINITE', details: { index: 1 } }),
      );
    }
    const q = quantizeBlockwise(seededFloats(1, 300), { blockSize: 128 });
    expect(() => dequantizeBlockwise({ ...q, absmax: q.absmax.subarray(1) })).toThrow(
      expect.objectContaining({ code: 'ERR_TENSOR_MISMATCH' }),
    );
    expect(() => dequantizeBlockwise({ ...q, blockSize: 3 })).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
  });
});
