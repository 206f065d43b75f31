// The native routines of feedback and of second moments: the bytes of the TypeScript, on every instruction set and any number of threads; and what they refuse.

import { elements, float32Tensor, type HostTensor, hostTensor, toFloat32 } from '@lowbit/core';
import { cpu, type Isa } from '@lowbit/kernels-cpu';
import { seededFloats } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { needs } from '../fixtures/needs.ts';
import { squares } from '../packages/models/src/evaluate/squares.ts';
import { type DescentOptions, descend } from '../packages/models/src/feedback/descent.ts';
import { factor } from '../packages/models/src/feedback/factor.ts';
import { codesOf, targetsOf } from '../packages/models/src/feedback/steps.ts';

const probe = await cpu().probe();
const addon = (context: { skip(reason: string): void }): void => needs(context, 'kernels-cpu', probe.ok, probe.ok ? '' : probe.reason);

/** Those that this processor runs. */
async function instructionSets(): Promise<readonly Isa[]> {
  const all: readonly Isa[] = ['amx', 'avx512', 'avx2', 'i8mm', 'dotprod', 'neon', 'scalar'];
  const usable: Isa[] = [];
  for (const isa of all) {
    const found = await cpu({ isa })
      .open()
      .catch(() => undefined);
    if (found) usable.push(isa);
    await found?.[Symbol.asyncDispose]();
  }
  return usable;
}

const matrix = (rows: number, columns: number, values: Float32Array): HostTensor => float32Tensor([rows, columns], values);

/** -1 where there is none. */
function firstDifference(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (found.length !== expected.length) return Math.min(found.length, expected.length);
  for (let i = 0; i < expected.length; i++) if (!Object.is(found[i], expected[i])) return i;
  return -1;
}

describe('routines of feedback', () => {
  it('give the bytes of the TypeScript', async (context) => {
    addon(context);
    const sets = await instructionSets();
    expect(sets).toContain('scalar');
    // Widths around those of vectors, of the strips of squares and of the panels of the factor.
    for (const [n, size] of [
      [1, 1],
      [21, 7],
      [96, 48],
      [131, 131],
    ] as const) {
      const samples = seededFloats(n, 300 * n, 1);
      const sums = await squares(samples, n);
      const values = Float32Array.from(sums, (sum, i) => sum / 300 + (i % (n + 1) === 0 ? 0.01 : 0));
      const { coupling, cost } = await factor(values, n);
      const rows = 19;
      const weights = seededFloats(n + 1, rows * n, 0.05);
      const [scale, zero] = [new Float32Array(rows).fill(0.02), new Float32Array(rows).fill(3.25)];
      for (const isa of sets) {
        for (const threads of [1, 3]) {
          await using backend = await cpu({ isa, threads }).open();
          const call = (name: string, inputs: readonly HostTensor[], params = {}) => backend.routines!.get(name)!(inputs, params);
          const what = `${n} channels, ${isa}, ${threads} threads`;
          const [total] = await call('moments.squares', [matrix(300, n, samples)]);
          expect(firstDifference(elements({ dtype: 'f64', data: total!.data }), sums), what).toBe(-1);
          const found = await call('feedback.factor', [matrix(n, n, values)]);
          expect(firstDifference(toFloat32(found[0]!), coupling), what).toBe(-1);
          expect(firstDifference(elements({ dtype: 'f64', data: found[1]!.data }), cost), what).toBe(-1);
          const errors = new Float32Array(rows * n);
          for (let from = 0; from + size <= n; from += size) {
            const group = { from, size };
            const targets = targetsOf(weights, errors, coupling, rows, group);
            const inputs = [matrix(rows, n, weights), matrix(rows, n, errors), found[0]!];
            const [aims] = await call('feedback.targets', inputs, group);
            expect(firstDifference(toFloat32(aims!), targets), what).toBe(-1);
            const expected = codesOf(targets, weights, scale, zero, coupling, group, 8);
            const grid = [scale, zero].map((numbers) => float32Tensor([rows], numbers));
            const [codes, off] = await call('feedback.codes', [aims!, inputs[0]!, ...grid, found[0]!], { ...group, levels: 8 });
            expect(firstDifference(codes!.data, expected.codes), what).toBe(-1);
            expect(firstDifference(toFloat32(off!), expected.errors), what).toBe(-1);
            for (let r = 0; r < rows; r++) errors.set(expected.errors.subarray(r * size, (r + 1) * size), r * n + from);
          }
        }
      }
    }
  });

  it('go over what is rounded to the bytes of the TypeScript', async (context) => {
    addon(context);
    // Groups around the panels that are widened together; numbers that are stored in 16 bits and in 32.
    for (const [n, size, scaleDtype, zeroDtype, levels] of [
      [1, 1, 'f32', 'f32', 2],
      [21, 7, 'f16', 'f16', 8],
      [96, 48, 'bf16', 'f16', 16],
      [131, 131, 'f16', 'bf16', 4],
      [192, 64, 'f16', 'f16', 8],
    ] as const) {
      const [rows, groups] = [19, n / size];
      const moments = Float32Array.from(await squares(seededFloats(n, 300 * n, 1), n), (sum) => sum / 300);
      const own = Float32Array.from({ length: n }, (_, i) => 1.3 * moments[i * (n + 1)]! + 0.01);
      const weights = seededFloats(n + 1, rows * n, 0.05);
      const before = {
        codes: Uint8Array.from(weights, (weight) => Math.min(levels - 1, Math.max(0, Math.round(weight / 0.03 + levels / 2)))),
        scale: new Float32Array(rows * groups).fill(0.03125),
        zero: new Float32Array(rows * groups).fill(levels / 2),
      };
      const options: DescentOptions = { size, levels, sweeps: 4, scaleDtype, zeroDtype };
      const expected = { codes: before.codes.slice(), scale: before.scale.slice(), zero: before.zero.slice() };
      const errors = await descend(weights, { moments, own }, expected, options);
      if (n > 1) expect(firstDifference(expected.codes, before.codes)).not.toBe(-1);
      if (n > 1) expect(firstDifference(expected.scale, before.scale)).not.toBe(-1);
      const grid = [before.scale, before.zero].map((values) => matrix(rows, groups, values));
      const costs = [matrix(n, n, moments), float32Tensor([n], own)];
      const inputs = [matrix(rows, n, weights), hostTensor('u8', [rows, n], before.codes), ...grid, ...costs];
      for (const isa of await instructionSets()) {
        for (const threads of [1, 3]) {
          await using backend = await cpu({ isa, threads }).open();
          const found = await backend.routines!.get('feedback.descend')!(inputs, { ...options });
          const what = `${n} channels, ${isa}, ${threads} threads`;
          expect(firstDifference(found[0]!.data, expected.codes), what).toBe(-1);
          for (const [i, values] of [expected.scale, expected.zero, errors].entries())
            expect(firstDifference(toFloat32(found[i + 1]!), values), `${what}, ${i}`).toBe(-1);
        }
      }
    }
  });

  it('refuse what does not fit', async (context) => {
    addon(context);
    await using backend = await cpu({ threads: 1 }).open();
    const bad = expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' });
    const call = (name: string, inputs: readonly HostTensor[], params = {}) => backend.routines!.get(name)!(inputs, params);
    const square = matrix(8, 8, new Float32Array(64).fill(1));
    await expect(call('feedback.factor', [])).rejects.toThrow(bad);
    await expect(call('feedback.factor', [matrix(8, 9, new Float32Array(72))])).rejects.toThrow(bad);
    await expect(call('moments.squares', [{ ...square, shape: [9, 8] }])).rejects.toThrow(bad);
    for (const group of [
      { from: 4, size: 5 },
      { from: 9, size: 0 },
      { from: -1, size: 4 },
      { from: 0, size: 0 },
      { from: 2 ** 40, size: 4 },
    ]) {
      await expect(call('feedback.targets', [square, square, square], group), JSON.stringify(group)).rejects.toThrow(bad);
    }
    await expect(call('feedback.targets', [square, square], { from: 0, size: 4 })).rejects.toThrow(bad);
    const numbers = float32Tensor([8], new Float32Array(8).fill(1));
    const inputs = [matrix(8, 4, new Float32Array(32)), square, numbers, numbers, square];
    expect(elements({ dtype: 'f32', data: (await call('feedback.codes', inputs, { from: 0, size: 4, levels: 4 }))[1]!.data }).length).toBe(
      32,
    );
    for (const levels of [1, 257]) await expect(call('feedback.codes', inputs, { from: 0, size: 4, levels })).rejects.toThrow(bad);
    await expect(call('feedback.codes', inputs.slice(0, 4), { from: 0, size: 4, levels: 4 })).rejects.toThrow(bad);

    const how = { size: 4, levels: 4, sweeps: 1, scaleDtype: 'f16', zeroDtype: 'f32' };
    const grid = matrix(8, 2, new Float32Array(16).fill(1));
    const codes = hostTensor('u8', [8, 8], new Uint8Array(64));
    const rounded = [square, codes, grid, grid, square, numbers];
    expect((await call('feedback.descend', rounded, how)).map(({ shape }) => shape)).toEqual([
      [8, 8],
      [8, 2],
      [8, 2],
      [8, 8],
    ]);
    for (const wrong of [
      { size: 3 },
      { size: 0 },
      { size: 2 },
      { levels: 1 },
      { levels: 257 },
      { sweeps: 1001 },
      { sweeps: -1 },
      { scaleDtype: 'f64' },
    ])
      await expect(call('feedback.descend', rounded, { ...how, ...wrong }), JSON.stringify(wrong)).rejects.toThrow(bad);
    for (let i = 0; i < rounded.length; i++)
      await expect(call('feedback.descend', rounded.with(i, float32Tensor([1], [1])), how), `input ${i}`).rejects.toThrow(bad);
  });
});
