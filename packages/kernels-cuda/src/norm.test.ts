// Norms of rows that take more than one warp: the conformance kit's are narrower.
import { type Backend, referenceBackend, toFloat32 } from '@lowbit/core';
import { ProgramBuilder } from '@lowbit/program';
import { seededTensor } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../../../fixtures/fake-cuda.ts';
import { needs } from '../../../fixtures/needs.ts';
import { cuda } from './cuda.ts';

async function normalized(backend: Backend, kind: 'rms' | 'layer'): Promise<Float32Array> {
  const b = new ProgramBuilder({ layers: 0 });
  const constant = (seed: number): number => b.addConstant(seededTensor(seed, [300], 1));
  b.output('out', b.norm(b.input('x', { width: 300 }), { kind, eps: 1e-5, weight: constant(1), bias: constant(2) }));
  using executable = await backend.compile(b.build(), [], { contextLength: 8 });
  const step = { tokens: new Uint32Array(5), wanted: Uint32Array.of(0, 1, 2, 3, 4), inputs: { x: seededTensor(3, [5, 300], 4) } };
  const { out } = await executable.step([{ id: executable.open(), ...step }]);
  return toFloat32(out!).slice();
}

describe('norm of rows of 300', () => {
  it.for(['rms', 'layer'] as const)('%s', async (kind, context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    await using reference = await referenceBackend().open();
    const expected = await normalized(reference, kind);
    for (const seed of [1, 2, 3]) {
      pretend({ seed });
      await using backend = await cuda({ driver: FAKE_DRIVER }).open();
      const got = await normalized(backend, kind);
      for (const [i, value] of expected.entries()) expect(Math.abs(got[i]! - value), `${seed}, ${i}`).toBeLessThan(3e-6);
    }
  });
});
