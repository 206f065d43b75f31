// LLM.int8 of rows that are not finite, by the kernel of one row and by those of several.
import { type Backend, float32Tensor, toFloat32 } from '@lowbit/core';
import { sampleWeight } from '@lowbit/testing';
import { expect, it } from 'vitest';
import { needs } from '../../../fixtures/needs.ts';
import { noWebGpu, TEST_OPTIONS } from '../../../fixtures/webgpu.ts';
import { webgpu } from './webgpu.ts';

const missing = await noWebGpu();
const [OUT, INP] = [40, 72];

async function products(backend: Backend, threshold: number, values: Float32Array): Promise<Float32Array> {
  const rows = values.length / INP;
  using linear = await backend.prepare(sampleWeight({ kind: 'int8', threshold }, [OUT, INP], 5));
  const x = backend.alloc({ dtype: 'f32', shape: [rows, INP] });
  const out = backend.alloc({ dtype: 'f32', shape: [rows, OUT] });
  backend.write(x, float32Tensor([rows, INP], values).data);
  linear.forward(x, out);
  const found = toFloat32(await backend.read(out)).slice();
  for (const tensor of [x, out]) backend.free(tensor);
  return found;
}

it.for([0, 6])(
  'NaN in a row of x is NaN in all of its results, and in no other row (threshold %i)',
  { timeout: 60_000 },
  async (threshold, context) => {
    needs(context, 'webgpu', missing === undefined, missing ?? '');
    await using backend = await webgpu({ ...TEST_OPTIONS, selfTest: false }).open();
    const numbers = Float32Array.from({ length: 3 * INP }, (_, i) => Math.sin(i));
    const plain = await products(backend, threshold, numbers);
    for (const bits of [0x7fc00000, 0x7f800001, 0xffffffff]) {
      const values = numbers.slice();
      new Uint32Array(values.buffer)[INP + 5] = bits;
      expect(await products(backend, threshold, values.subarray(INP, 2 * INP).slice()), 'one row').toEqual(
        new Float32Array(OUT).fill(Number.NaN),
      );
      const several = await products(backend, threshold, values);
      expect(several.subarray(0, OUT)).toEqual(plain.subarray(0, OUT));
      expect(several.subarray(OUT, 2 * OUT)).toEqual(new Float32Array(OUT).fill(Number.NaN));
      expect(several.subarray(2 * OUT)).toEqual(plain.subarray(2 * OUT));
    }
  },
);
