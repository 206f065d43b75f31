import type { Importance } from '@lowbit/core';
import { seededFloats } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { layerBytes } from './importance-memory.ts';
import { MomentSums, PORTION, waitingBytes } from './moment-sums.ts';
import { squares } from './squares.ts';
import type { LayerInput } from './stream-inputs.ts';

/** `squares`, and the rows of each call. */
function counted(): { readonly calls: number[]; readonly products: (rows: Float32Array, width: number) => Promise<Float64Array> } {
  const calls: number[] = [];
  return {
    calls,
    async products(rows, width) {
      calls.push(rows.length / width);
      return squares(rows, width);
    },
  };
}

describe('MomentSums', () => {
  it('keeps rows while they take less than the sums, and sums the same portions as without', async () => {
    const [width, rows] = [768, 350];
    const { calls, products } = counted();
    const sums = new MomentSums(width, 'matrix', products);
    const samples = [0, 1, 2, 3, 4].map((seed) => seededFloats(seed, rows * width, 1));
    const view = new Float32Array(rows * width);
    for (const sample of samples) {
      if (sample === samples[4]) expect(calls).toEqual([]); // a portion is full, and still smaller than its sums
      view.set(sample);
      await sums.add(view);
      view.fill(0);
    }
    expect(calls).toEqual([4 * rows]);
    const { kind, moments, rows: all } = (await sums.moments('a'))!;
    expect([kind, all, calls]).toEqual(['matrix', 5 * rows, [4 * rows, rows]]);
    const first = new Float32Array(4 * rows * width);
    for (const [i, sample] of samples.slice(0, 4).entries()) first.set(sample, i * rows * width);
    const [a, b] = [await squares(first, width), await squares(samples[4]!, width)];
    const found = new Float32Array(moments.data.buffer, moments.data.byteOffset, width * width);
    expect(found.every((value, i) => value === Math.fround((a[i]! + b[i]!) / (5 * rows)))).toBe(true);
    expect(await sums.moments('a')).toBe(await sums.moments('a'));
    expect(calls.length).toBe(2);
  });

  it('sums as rows come where they would take more', async () => {
    const width = 16;
    const { calls, products } = counted();
    const sums = new MomentSums(width, 'matrix', products);
    const rows = PORTION / width / 4;
    for (let i = 0; i < 6; i++) await sums.add(new Float32Array(rows * width).fill(i));
    expect(calls).toEqual([4 * rows]);
    const { moments } = (await sums.moments('a'))!;
    expect(new Set(new Float32Array(moments.data.buffer))).toEqual(new Set([Math.fround(55 / 6)]));
  });

  it('has nothing of no rows, and refuses numbers that are none', async () => {
    const { products } = counted();
    for (const kind of ['matrix', 'diagonal'] as const) {
      expect(await new MomentSums(4, kind, products).moments('a')).toBeUndefined();
      const sums = new MomentSums(2, kind, products);
      await sums.add(Float32Array.of(1, Number.NaN));
      await expect(sums.moments('a.b')).rejects.toThrow(
        expect.objectContaining({ code: 'ERR_NON_FINITE', details: { path: 'a.b', channel: 1 } }),
      );
    }
  });
});

it('sums and stops when it is told to on the way', async () => {
  const stop = new AbortController();
  const reason = new Error('stopped');
  setTimeout(() => stop.abort(reason), 0);
  await expect(squares(new Float32Array(2048 * 1024), 1024, stop.signal)).rejects.toBe(reason);
});

it('counts bytes: experts wait in the rows that all of them get together', () => {
  expect(waitingBytes(8192, 4096)).toBe(4 * 8192 * 4096);
  expect(waitingBytes(800_000, 64)).toBe(8 * 64 * 64 + 4 * PORTION);
  // A layer of Mixtral 8x7B: matrices of all experts are 14 GB.
  const experts = [4096, 14336].flatMap((width) =>
    Array.from({ length: 8 }, (_, i): LayerInput => ({ paths: [`${width}.${i}`], width, share: { of: `${width}`, perToken: 2 } })),
  );
  const attention: LayerInput[] = ['qkv', 'o'].map((path) => ({ paths: [path], width: 4096 }));
  const rows = 4 * 8192 * (2 * 4096 + 2 * (4096 + 14336));
  const of = (inputs: readonly LayerInput[], kind: Importance['kind']) =>
    layerBytes(
      inputs.map((input) => ({ ...input, kind })),
      8192,
    );
  expect(of([...attention, ...experts], 'matrix')).toBe(rows + 20 * 14336 ** 2);
  expect(rows + 20 * 14336 ** 2).toBeLessThan(5.7e9);
  expect(of(attention, 'diagonal')).toBe(2 * 8 * 4096);
  expect(of([], 'matrix')).toBe(0);
});
