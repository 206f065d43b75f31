// Attention over more keys than a block of threads takes at once: the conformance kit's sequences are shorter.
import { type Backend, type OpOf, ProgramBuilder, referenceBackend, toFloat32 } from '@lowbit/core';
import { seededTensor } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../../../fixtures/fake-cuda.ts';
import { needs } from '../../../fixtures/needs.ts';
import { cuda } from './cuda.ts';

/** Two heads over one key head, of 40 and 24 numbers; rows of 2 * 40 + 40 + 24. */
async function attended(backend: Backend, change: Partial<OpOf<'attend'>>, chunks: readonly number[]): Promise<number[]> {
  const b = new ProgramBuilder({ layers: 1 });
  b.layer = 0;
  const x = b.input('x', { width: 144 });
  const part = (offset: number, width: number): number => b.slice(x, { offset, width });
  const cache = b.addCache({ heads: 1, keyDim: 40, valueDim: 24 });
  const { window, softcap, bias } = change;
  const shape = { heads: 2, kvHeads: 1, keyDim: 40, valueDim: 24, scale: 0.3, window, softcap, bias };
  b.output('out', b.attend(part(0, 80), { k: part(80, 40), v: part(120, 24), cache, ...shape }));
  const rows = chunks.reduce((sum, count) => sum + count, 0);
  const all = seededTensor(9, [rows, 144], 1.5);
  using executable = await backend.compile(b.build(), [], { contextLength: 512 });
  const id = executable.open();
  const got: number[] = [];
  let at = 0;
  for (const count of chunks) {
    const data = all.data.subarray(at * 144 * 4, (at + count) * 144 * 4);
    const inputs = { x: { dtype: 'f32', shape: [count, 144], data } } as const;
    const wanted = Uint32Array.from({ length: count }, (_, i) => i);
    const { out } = await executable.step([{ id, tokens: new Uint32Array(count), wanted, inputs }]);
    got.push(...toFloat32(out!));
    at += count;
  }
  return got;
}

describe('attention over 170 keys, which are two parts', () => {
  it.for<readonly [string, Partial<OpOf<'attend'>>]>([
    ['plain', {}],
    ['in a window of 140', { window: 140 }],
    ['with softcap and slopes', { softcap: 2, bias: { kind: 'alibi', slopes: [0.05, 0.01] } }],
  ])('%s', { timeout: 60_000 }, async ([, change], context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    await using reference = await referenceBackend().open();
    const expected = await attended(reference, change, [170]);
    const largest = Math.max(...expected.map(Math.abs));
    let first: number[] | undefined;
    for (const seed of [1, 2]) {
      pretend({ seed });
      await using backend = await cuda({ driver: FAKE_DRIVER }).open();
      // One and two rows have a block for each part, more have one for all of them: the bytes are the same.
      const got = await attended(backend, change, seed === 1 ? [170] : [127, 1, 2, 1, 37, 2]);
      for (const [i, value] of expected.entries()) expect(Math.abs(got[i]! - value), `${seed}, ${i}`).toBeLessThan(5e-6 * largest);
      first ??= got;
      expect(got).toEqual(first);
    }
  });
});
