// Rotations and attention against formulas written from their definitions: one query, one head, one key at a time.

import { ProgramBuilder } from '@lowbit/program';
import { seededFloats, seededTensor } from '@lowbit/testing';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { toFloat32 } from '../dtype.ts';
import type { Attend, Rope } from '../spec/program.ts';
import type { HostTensor } from '../spec/tensor.ts';
import { float32Tensor } from '../tensor.ts';
import { relativeBucket } from './attention.ts';
import { referenceBackend } from './index.ts';

/** Steps of one sequence through a program without weights; the rows of all steps, one after another. */
async function steps(
  b: ProgramBuilder,
  list: readonly (Record<string, HostTensor> & { readonly tokens?: never })[],
  lengths?: readonly number[],
): Promise<Float32Array> {
  await using backend = await referenceBackend().open();
  const executable = await backend.compile(b.build(), [], { contextLength: 256 });
  const id = executable.open();
  const all: number[] = [];
  for (const [i, inputs] of list.entries()) {
    const tokens = new Uint32Array(inputs.x!.shape[0]!);
    const wanted = Uint32Array.from(tokens.keys());
    const { out } = await executable.step([{ id, tokens, wanted, inputs, ...(lengths ? { length: lengths[i]! } : {}) }]);
    all.push(...toFloat32(out!));
  }
  return Float32Array.from(all);
}

function expectClose(got: ArrayLike<number>, expected: readonly number[], tolerance = 1e-6): void {
  expect(got.length).toBe(expected.length);
  for (const [i, value] of expected.entries())
    expect(Math.abs(got[i]! - value), `element ${i}: ${got[i]} for ${value}`).toBeLessThanOrEqual(tolerance * Math.max(1, Math.abs(value)));
}

describe('rope', () => {
  const rope = async (
    rope: Rope,
    options: { heads: number; dim: number; style: 'half' | 'interleaved' },
    chunks: readonly HostTensor[],
    lengths?: readonly number[],
  ): Promise<Float32Array> => {
    const b = new ProgramBuilder({ layers: 1 });
    b.output('out', b.rope(b.input('x', { width: chunks[0]!.shape[1]! }), { ...options, rope: b.addRope(rope) }));
    return steps(
      b,
      chunks.map((x) => ({ x })),
      lengths,
    );
  };

  it('turns pairs by position * frequency', async () => {
    const x = float32Tensor([2, 4], [1, 2, 3, 4, 1, 2, 3, 4]);
    const fixed = { kind: 'fixed', frequencies: [0.5, 0.1], scale: 1 } as const;
    const [c0, s0, c1, s1] = [Math.cos(0.5), Math.sin(0.5), Math.cos(0.1), Math.sin(0.1)];
    expectClose(await rope(fixed, { heads: 1, dim: 4, style: 'half' }, [x]), [
      1,
      2,
      3,
      4,
      c0 - 3 * s0,
      2 * c1 - 4 * s1,
      3 * c0 + s0,
      4 * c1 + 2 * s1,
    ]);
    expectClose(await rope(fixed, { heads: 1, dim: 4, style: 'interleaved' }, [x]), [
      1,
      2,
      3,
      4,
      c0 - 2 * s0,
      2 * c0 + s0,
      3 * c1 - 4 * s1,
      4 * c1 + 3 * s1,
    ]);
    const scaled = await rope({ ...fixed, scale: 2 }, { heads: 1, dim: 4, style: 'half' }, [x]);
    expectClose(scaled.subarray(0, 4), [2, 4, 6, 8]);
  });

  it('leaves the rest of each head alone', async () => {
    const x = float32Tensor([2, 6], [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6]);
    const got = await rope({ kind: 'fixed', frequencies: [0.5], scale: 1 }, { heads: 2, dim: 2, style: 'half' }, [x]);
    const [c, s] = [Math.cos(0.5), Math.sin(0.5)];
    expectClose(got.subarray(6), [c - 2 * s, 2 * c + s, 3, 4 * c - 5 * s, 5 * c + 4 * s, 6]);
  });

  it('dynamic: the base grows with the length at this step', async () => {
    const dynamic = { kind: 'dynamic', base: 100, dim: 4, factor: 2, original: 4 } as const;
    const at = (position: number, length: number): number[] => {
      const base = length <= 4 ? 100 : 100 * ((2 * length) / 4 - 1) ** (4 / 2);
      const [a, b] = [position, position / Math.sqrt(base)];
      return [
        Math.cos(a) - 3 * Math.sin(a),
        2 * Math.cos(b) - 4 * Math.sin(b),
        3 * Math.cos(a) + Math.sin(a),
        4 * Math.cos(b) + 2 * Math.sin(b),
      ];
    };
    const row = [1, 2, 3, 4];
    const chunk = (rows: number): HostTensor => float32Tensor([rows, 4], Array.from({ length: rows }, () => row).flat());
    const options = { heads: 1, dim: 4, style: 'half' } as const;
    const grown = await rope(dynamic, options, [chunk(3), chunk(3), chunk(1)]);
    expectClose(grown, [at(0, 3), at(1, 3), at(2, 3), at(3, 6), at(4, 6), at(5, 6), at(6, 7)].flat(), 2e-6);
    const announced = await rope(dynamic, options, [chunk(3), chunk(3)], [6, 6]);
    expectClose(
      announced,
      [0, 1, 2, 3, 4, 5].flatMap((position) => at(position, 6)),
      2e-6,
    );
  });

  it('long: the second list once the length passes the original', async () => {
    const long = { kind: 'long', short: [0.5], long: [0.1], original: 3, scale: 1 } as const;
    const chunk = (rows: number): HostTensor => float32Tensor([rows, 2], new Array(rows).fill([1, 0]).flat());
    const got = await rope(long, { heads: 1, dim: 2, style: 'half' }, [chunk(2), chunk(1), chunk(1)]);
    expectClose(
      got,
      [0, 0.5, 1, 0.3].flatMap((angle) => [Math.cos(angle), Math.sin(angle)]),
    );
  });
});

describe('relative buckets', () => {
  it('are those of the published T5 code', () => {
    // transformers T5Attention._relative_position_bucket, 32 buckets, distance 128
    const both = [-200, -128, -64, -16, -8, -1, 0, 1, 7, 8, 16, 32, 64, 127].map((d) =>
      relativeBucket(d, { buckets: 32, maxDistance: 128, bidirectional: true }),
    );
    expect(both).toEqual([15, 15, 14, 10, 8, 1, 0, 17, 23, 24, 26, 28, 30, 31]);
    const back = [-200, -113, -64, -32, -17, -16, -15, -1, 0, 1, 50].map((d) =>
      relativeBucket(d, { buckets: 32, maxDistance: 128, bidirectional: false }),
    );
    expect(back).toEqual([31, 31, 26, 21, 16, 16, 15, 1, 0, 0, 0]);
  });

  it('are those that transformers 5.23 computed for 16 buckets and distance 18', () => {
    const tail = (values: number[], last: number, length: number): number[] => [
      ...values,
      ...new Array<number>(length - values.length).fill(last),
    ];
    const distances = Array.from({ length: 41 }, (_, d) => d);
    const before = tail([0, 1, 2, 3, 4, 4, 5, 5, 5, 6, 6, 6, 6], 7, 41);
    expect(distances.map((d) => relativeBucket(-d, { buckets: 16, maxDistance: 18, bidirectional: true }))).toEqual(before);
    expect(distances.slice(1).map((d) => relativeBucket(d, { buckets: 16, maxDistance: 18, bidirectional: true }))).toEqual(
      before.slice(1).map((bucket) => bucket + 8),
    );
    expect(distances.map((d) => relativeBucket(-d, { buckets: 16, maxDistance: 18, bidirectional: false }))).toEqual(
      tail([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 12, 13, 14, 14], 15, 41),
    );
  });
});

type Settings = Pick<Attend, 'heads' | 'kvHeads' | 'keyDim' | 'valueDim' | 'causal'> & {
  window?: number;
  softcap?: number;
  slopes?: number[];
  table?: number[];
  buckets?: number;
  both?: boolean;
};

/** The definition, for one sequence whose queries and keys are at positions 0 .. n - 1. */
function naive(q: Float32Array, k: Float32Array, v: Float32Array, n: number, s: Settings): number[] {
  const out: number[] = [];
  for (let i = 0; i < n; i++) {
    for (let h = 0; h < s.heads; h++) {
      const g = Math.floor((h * s.kvHeads) / s.heads);
      const seen: [score: number, key: number][] = [];
      for (let j = 0; j < n; j++) {
        if ((s.causal && j > i) || (s.window !== undefined && i - j >= s.window)) continue;
        let score = 0;
        for (let d = 0; d < s.keyDim; d++) score += q[(i * s.heads + h) * s.keyDim + d]! * k[(j * s.kvHeads + g) * s.keyDim + d]!;
        score *= 0.4;
        if (s.softcap) score = s.softcap * Math.tanh(score / s.softcap);
        if (s.slopes) score += s.slopes[h]! * (j - i);
        if (s.table)
          score += s.table[relativeBucket(j - i, { buckets: s.buckets!, maxDistance: 16, bidirectional: s.both ?? false }) * s.heads + h]!;
        seen.push([score, j]);
      }
      const total = seen.reduce((sum, [score]) => sum + Math.exp(score), 0);
      for (let d = 0; d < s.valueDim; d++)
        out.push(seen.reduce((sum, [score, j]) => sum + (Math.exp(score) / total) * v[(j * s.kvHeads + g) * s.valueDim + d]!, 0));
    }
  }
  return out;
}

function attendProgram(s: Settings, cached: boolean): ProgramBuilder {
  const b = new ProgramBuilder({ layers: 1 });
  b.layer = 0;
  const widths = [s.heads * s.keyDim, s.kvHeads * s.keyDim, s.kvHeads * s.valueDim] as const;
  const x = b.input('x', { width: widths[0] + widths[1] + widths[2] });
  const q = b.slice(x, { offset: 0, width: widths[0] });
  const k = b.slice(x, { offset: widths[0], width: widths[1] });
  const v = b.slice(x, { offset: widths[0] + widths[1], width: widths[2] });
  const cache = cached ? b.addCache({ heads: s.kvHeads, keyDim: s.keyDim, valueDim: s.valueDim }) : undefined;
  const { heads, kvHeads, keyDim, valueDim, causal, window, softcap } = s;
  const bias = s.slopes
    ? ({ kind: 'alibi', slopes: s.slopes } as const)
    : s.table
      ? ({
          kind: 'relative',
          table: b.addConstant(float32Tensor([s.buckets!, heads], s.table)),
          buckets: s.buckets!,
          maxDistance: 16,
          bidirectional: s.both ?? false,
        } as const)
      : undefined;
  b.output('out', b.attend(q, { k, v, cache, heads, kvHeads, keyDim, valueDim, causal, window, softcap, bias, scale: 0.4 }));
  return b;
}

const part = (x: HostTensor, from: number, to: number): Float32Array => {
  const [rows, width] = x.shape as [number, number];
  const values = toFloat32(x);
  return Float32Array.from(
    { length: rows * (to - from) },
    (_, i) => values[Math.floor(i / (to - from)) * width + from + (i % (to - from))]!,
  );
};

function expected(x: HostTensor, s: Settings): number[] {
  const kAt = s.heads * s.keyDim;
  const vAt = kAt + s.kvHeads * s.keyDim;
  return naive(part(x, 0, kAt), part(x, kAt, vAt), part(x, vAt, x.shape[1]!), x.shape[0]!, s);
}

const rows = (x: HostTensor, from: number, to: number): HostTensor => {
  const width = x.shape[1]!;
  return { dtype: 'f32', shape: [to - from, width], data: x.data.slice(from * width * 4, to * width * 4) };
};

describe('attend', () => {
  const base: Settings = { heads: 4, kvHeads: 4, keyDim: 6, valueDim: 6, causal: true };
  const widthOf = (s: Settings): number => s.heads * s.keyDim + s.kvHeads * (s.keyDim + s.valueDim);
  it.each<[string, Partial<Settings>]>([
    ['plain', {}],
    ['grouped heads', { kvHeads: 2 }],
    ['one key head', { kvHeads: 1 }],
    ['head counts that do not divide', { heads: 3, kvHeads: 2 }],
    ['wider values', { valueDim: 9 }],
    ['a window of 1', { window: 1 }],
    ['a window', { window: 4 }],
    ['softcap', { softcap: 0.5 }],
    ['alibi', { slopes: [1, 0.5, 0.25, 0.1] }],
    ['relative bias', { table: [...seededFloats(8, 32, 2)], buckets: 8 }],
    ['softcap, then bias', { softcap: 0.5, slopes: [1, 0.5, 0.25, 0.1] }],
  ])('%s', async (_, change) => {
    const s = { ...base, ...change };
    const x = seededTensor(3, [23, widthOf(s)], 1.5);
    expectClose(await steps(attendProgram(s, true), [{ x }]), expected(x, s));
  });

  it.each<[string, Partial<Settings>]>([
    ['both ways', { causal: false }],
    ['causal', {}],
    ['both ways in a window', { causal: false, window: 3 }],
    ['both ways with relative bias', { causal: false, table: [...seededFloats(9, 32, 2)], buckets: 8, both: true }],
  ])('without a cache, %s', async (_, change) => {
    const s = { ...base, ...change };
    const x = seededTensor(4, [14, widthOf(s)], 1.5);
    expectClose(await steps(attendProgram(s, false), [{ x }]), expected(x, s));
  });

  it('gives the same bytes whatever the chunks', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1, maxLength: 6 }),
        fc.constantFrom<Partial<Settings>>({}, { kvHeads: 2, window: 5 }, { kvHeads: 1, softcap: 1 }, { slopes: [1, 0.5, 0.2, 0.1] }),
        async (sizes, change) => {
          const s = { ...base, ...change };
          const total = sizes.reduce((a, b) => a + b, 0);
          const x = seededTensor(total, [total, widthOf(s)], 1.5);
          let at = 0;
          const chunks = sizes.map((size) => {
            at += size;
            return { x: rows(x, at - size, at) };
          });
          expect(await steps(attendProgram(s, true), chunks)).toEqual(await steps(attendProgram(s, true), [{ x }]));
        },
      ),
      { numRuns: 30 },
    );
  });

  it('survives scores that overflow exp', async () => {
    const s: Settings = { heads: 1, kvHeads: 1, keyDim: 1, valueDim: 1, causal: true };
    const x = float32Tensor([2, 3], [100, 100, 1, 100, 99, 2]);
    // scores of the second row: 4000 and 3960
    expectClose(await steps(attendProgram(s, true), [{ x }]), [1, 1]);
  });

  it('attends to encoder rows handed in once, then only read', async () => {
    const b = new ProgramBuilder({ layers: 1 });
    b.layer = 0;
    const encoded = b.input('encoded', { rows: 'encoder', width: 8 });
    const cache = b.addCache({ rows: 'encoder', heads: 1, keyDim: 4, valueDim: 4 });
    b.remember(b.slice(encoded, { offset: 0, width: 4 }), b.slice(encoded, { offset: 4, width: 4 }), cache);
    b.output('out', b.attend(b.input('x', { width: 4 }), { cache, heads: 1, keyDim: 4, scale: 0.4, causal: false }));
    const x = seededTensor(1, [3, 4]);
    const m = seededTensor(2, [5, 8]);
    const got = await steps(b, [{ x: rows(x, 0, 2), encoded: m }, { x: rows(x, 2, 3) }]);
    const [q, k, v] = [toFloat32(x), part(m, 0, 4), part(m, 4, 8)];
    const want = [0, 1, 2].flatMap((i) => {
      const weights = [0, 1, 2, 3, 4].map((j) => Math.exp(0.4 * [0, 1, 2, 3].reduce((sum, d) => sum + q[i * 4 + d]! * k[j * 4 + d]!, 0)));
      const total = weights.reduce((a, c) => a + c, 0);
      return [0, 1, 2, 3].map((d) => weights.reduce((sum, weight, j) => sum + (weight / total) * v[j * 4 + d]!, 0));
    });
    expectClose(got, want);
    expectClose(await steps(b, [{ x: rows(x, 0, 1) }]), [0, 0, 0, 0]); // no encoder rows: nothing to see
    await expect(
      steps(b, [
        { x: rows(x, 0, 1), encoded: m },
        { x: rows(x, 1, 2), encoded: m },
      ]),
    ).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
  });
});
