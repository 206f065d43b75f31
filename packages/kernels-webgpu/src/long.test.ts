// Attention over many keys and of many rows against the reference: tiles of rows, keys in parts; windows, softcaps and biases of positions.
import { type Backend, type Executable, type OpOf, referenceBackend, toFloat32 } from '@lowbit/core';
import { ProgramBuilder } from '@lowbit/program';
import { sampleWeight, seededTensor } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { needs } from '../../../fixtures/needs.ts';
import { noWebGpu, TEST_OPTIONS } from '../../../fixtures/webgpu.ts';
import type { WebGpuExecutable } from './executable.ts';
import { webgpu } from './webgpu.ts';
import { SPLIT } from './wgsl/attention.ts';

const missing = await noWebGpu();
const DENSE = { kind: 'dense', dtype: 'f32' } as const;

interface Shape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly keyDim: number;
  readonly more: Partial<Pick<OpOf<'attend'>, 'window' | 'softcap' | 'bias' | 'valueDim'>>;
  /** Keys that a row sees are too few to be shared out, however long the sequence. */
  readonly whole?: boolean;
}

/** Embeddings attended to, and nothing else. */
async function attending(backend: Backend, { heads, kvHeads, keyDim, more }: Shape): Promise<Executable> {
  const valueDim = more.valueDim ?? keyDim;
  const b = new ProgramBuilder({ layers: 1 });
  const shapes: (readonly [number, number])[] = [];
  const linear = (shape: readonly [number, number], use: 'linear' | 'embedding' = 'linear'): number => {
    shapes.push(shape);
    return b.addLinear(`${shapes.length}`, shape, { use });
  };
  const x = b.embed(linear([64, 32], 'embedding'));
  b.layer = 0;
  const [q, k, v] = [heads * keyDim, kvHeads * keyDim, kvHeads * valueDim].map((width) => b.linear(x, linear([width, 32])));
  const cache = b.addCache({ heads: kvHeads, keyDim, valueDim });
  b.layer = 1;
  b.output('out', b.select(b.attend(q!, { k: k!, v: v!, cache, heads, kvHeads, keyDim, valueDim, scale: 0.3, ...more })));
  const program = b.build();
  const linears = [];
  for (const [i, { use }] of program.linears.entries())
    linears.push(await backend.prepare(sampleWeight(DENSE, shapes[i]!, 40 + i), { use }));
  return backend.compile(program, linears, { contextLength: 2 * SPLIT.keys });
}

const tokens = (count: number, seed: number): Uint32Array => Uint32Array.from({ length: count }, (_, i) => (i * i * 7 + i * 3 + seed) % 64);

describe('attention over long sequences', () => {
  it.for<readonly [string, Shape]>([
    ['plain, grouped heads', { heads: 4, kvHeads: 2, keyDim: 16, more: {} }],
    ['values of another width', { heads: 2, kvHeads: 1, keyDim: 24, more: { valueDim: 80 } }],
    ['in a window, with a softcap', { heads: 2, kvHeads: 2, keyDim: 16, more: { window: 600, softcap: 4 } }],
    ['in a short window', { heads: 2, kvHeads: 1, keyDim: 16, more: { window: 100 }, whole: true }],
    ['with slopes', { heads: 2, kvHeads: 1, keyDim: 16, more: { bias: { kind: 'alibi', slopes: [0.02, 0.005] } } }],
    ['of wide heads', { heads: 1, kvHeads: 1, keyDim: 160, more: {} }],
  ])('%s', async ([, shape], context) => {
    needs(context, 'webgpu', missing === undefined, missing ?? '');
    await using backend = await webgpu(TEST_OPTIONS).open();
    await using reference = await referenceBackend().open();
    const results: Float32Array[] = [];
    const dispatches: number[] = [];
    for (const on of [backend, reference]) {
      using executable = await attending(on, shape);
      const [one, other] = [executable.open(), executable.open()];
      const all: number[] = [];
      // Tiles of rows, the last of them not full; then single rows over many keys, beside a sequence with few.
      const steps = [
        [{ id: one, tokens: tokens(SPLIT.keys + 133, 1) }],
        [{ id: one, tokens: tokens(1, 2) }],
        [
          { id: one, tokens: tokens(2, 3) },
          { id: other, tokens: tokens(2, 4) },
        ],
        [
          { id: other, tokens: tokens(19, 5) },
          { id: one, tokens: tokens(3, 6) },
        ],
        [
          { id: one, tokens: tokens(1, 7) },
          { id: other, tokens: tokens(1, 8) },
        ],
        [{ id: other, tokens: tokens(1, 9) }],
      ];
      for (const step of steps) {
        const batch = step.map((sequence) => ({ ...sequence, wanted: Uint32Array.from(sequence.tokens.keys()) }));
        const { out } = await executable.step(batch);
        all.push(...toFloat32(out!));
        if (on === backend) dispatches.push((executable as WebGpuExecutable).costs.dispatches);
      }
      results.push(Float32Array.from(all));
    }
    const [got, expected] = results as [Float32Array, Float32Array];
    expect(got).toHaveLength(expected.length);
    const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    for (const [i, value] of expected.entries()) {
      if (!(Math.abs(got[i]! - value) <= 2e-5 * largest)) throw new Error(`number ${i}: ${got[i]}, not ${value}`);
    }
    // Of a single row the three products are one, and its key and value go into the cache on the way; keys in parts are two.
    expect(dispatches[1]! - dispatches[0]!).toBe(-3 + (shape.whole ? 0 : 1));
  });

  it('what is not finite in a value reaches the rows that see it, and no others', async (context) => {
    needs(context, 'webgpu', missing === undefined, missing ?? '');
    await using backend = await webgpu(TEST_OPTIONS).open();
    const [dim, rows, bad, window] = [80, 40, 21, 8];
    const b = new ProgramBuilder({ layers: 1 });
    b.layer = 0;
    const x = b.input('x', { width: 3 * dim });
    const [q, k, v] = [0, dim, 2 * dim].map((offset) => b.slice(x, { offset, width: dim }));
    const cache = b.addCache({ heads: 1, keyDim: dim, valueDim: dim });
    b.output('out', b.attend(q!, { k: k!, v: v!, cache, heads: 1, kvHeads: 1, keyDim: dim, valueDim: dim, scale: 0.3, window }));
    const values = toFloat32(seededTensor(3, [rows, 3 * dim], 1)).slice();
    using executable = await backend.compile(b.build(), [], { contextLength: 64 });
    const run = async (): Promise<Float32Array> => {
      const id = executable.open();
      const inputs = { x: { dtype: 'f32', shape: [rows, 3 * dim], data: new Uint8Array(values.slice().buffer) } } as const;
      const wanted = Uint32Array.from({ length: rows }, (_, i) => i);
      const { out } = await executable.step([{ id, tokens: new Uint32Array(rows), wanted, inputs }]);
      executable.close(id);
      return toFloat32(out!).slice();
    };
    const plain = await run();
    for (const channel of [5, 70]) {
      for (const worse of [Number.POSITIVE_INFINITY, Number.NaN]) {
        const at = bad * 3 * dim + 2 * dim + channel;
        const good = values[at]!;
        values[at] = worse;
        for (const [i, value] of (await run()).entries()) {
          const row = Math.floor(i / dim);
          if (row >= bad && row < bad + window && i % dim === channel) expect(value, `${row}`).toBe(worse);
          else expect(value, `${row}, ${i % dim}`).toBe(plain[i]);
        }
        values[at] = good;
      }
    }
  });
});
