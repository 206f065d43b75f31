// Folders that transformers 4.57.6 saved, run here: logits equal those of the weights as Python dequantizes them, in the checkpoint's own dtype.

import { type Checkpoint, createRuntime, dequantize, elements, float32Tensor, referenceBackend, toFloat32 } from '@lowbit/core';
import { openCheckpoint } from '@lowbit/hub';
import { loadModel } from '@lowbit/models';
import { describe, expect, it } from 'vitest';
import { goldenPath, goldenTensors } from '../fixtures/golden.ts';

const logits = goldenTensors('hqq/checkpoints-hf4/logits.safetensors');

/** The same checkpoint with its quantized linears expanded in the dtype that Python computes in. */
function expanded(checkpoint: Checkpoint, dtype: 'f16' | 'bf16'): Checkpoint {
  return {
    ...checkpoint,
    async linear(path, options) {
      const q = await checkpoint.linear(path, options);
      if (q.format.kind === 'dense') return q;
      const weight = float32Tensor(q.shape, toFloat32(dequantize(q, { dtype })));
      return { format: { kind: 'dense', dtype: 'f32' }, shape: q.shape, parts: { weight } };
    },
    [Symbol.asyncDispose]: () => checkpoint[Symbol.asyncDispose](),
  };
}

describe.each([
  { name: 'uniform-b4-g64', dtype: 'f16' as const },
  { name: 'per-tag', dtype: 'bf16' as const },
])('$name', ({ name, dtype }) => {
  const want = toFloat32(logits.get(`${name}/logits_dequantized_f32`)!); // [2, 8, vocab]
  const ids = Array.from(elements({ dtype: 'i64', data: logits.get('input_ids')!.data }), Number);

  async function largestDifference(wrap: (checkpoint: Checkpoint) => Checkpoint): Promise<number> {
    await using checkpoint = await openCheckpoint(goldenPath(`hqq/checkpoints-hf4/${name}`));
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    await using model = await loadModel(wrap(checkpoint), { runtime });
    const got = [...toFloat32(await model.logits(ids.slice(0, 8))), ...toFloat32(await model.logits(ids.slice(8)))];
    expect(got.length).toBe(want.length);
    return got.reduce((largest, value, i) => Math.max(largest, Math.abs(value - want[i]!)), 0);
  }

  it(`has Python's logits when dequantized in ${dtype}`, async () => {
    expect(await largestDifference((checkpoint) => expanded(checkpoint, dtype))).toBeLessThan(1e-4);
  });

  it('differs only by the rounding of the dtype when run from its codes, which are dequantized in f32', async () => {
    expect(await largestDifference((checkpoint) => checkpoint)).toBeLessThan(dtype === 'f16' ? 5e-3 : 5e-2);
  });
});
