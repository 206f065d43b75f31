// Folders that transformers 5.23.0 saved with bitsandbytes 0.50.2: their weights, their logits, and the same files written again here.

import { type Checkpoint, createRuntime, dequantize, elements, float32Tensor, referenceBackend, toFloat32 } from '@lowbit/core';
import { openCheckpoint } from '@lowbit/hub';
import { loadModel } from '@lowbit/models';
import { describe, expect, it } from 'vitest';
import { goldenJson, goldenPath, goldenTensors } from '../fixtures/golden.ts';

interface GoldenCase {
  readonly name: string;
  readonly quantized_linears: readonly string[];
}

const { cases } = goldenJson<{ cases: readonly GoldenCase[] }>('bnb/cases.json');
const logits = goldenTensors('bnb/checkpoints/logits.safetensors');
const ids = Array.from(elements({ dtype: 'i64', data: logits.get('input_ids')!.data }), Number);

/** The same checkpoint with its quantized linears expanded to f32. */
function expanded(checkpoint: Checkpoint): Checkpoint {
  return {
    ...checkpoint,
    async linear(path, options) {
      const q = await checkpoint.linear(path, options);
      if (q.format.kind === 'dense') return q;
      const weight = float32Tensor(q.shape, toFloat32(dequantize(q)));
      return { format: { kind: 'dense', dtype: 'f32' }, shape: q.shape, parts: { weight } };
    },
    [Symbol.asyncDispose]: () => checkpoint[Symbol.asyncDispose](),
  };
}

describe.each(['nf4', 'nf4-double', 'fp4', 'int8'])('%s', (name) => {
  const folder = goldenPath(`bnb/checkpoints/${name}`);

  async function largestDifference(expected: string, wrap: (checkpoint: Checkpoint) => Checkpoint): Promise<number> {
    const want = toFloat32(logits.get(`${name}/${expected}`)!); // [2, 8, vocab]
    await using checkpoint = await openCheckpoint(folder);
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    await using model = await loadModel(wrap(checkpoint), { runtime });
    const got = [...toFloat32(await model.logits(ids.slice(0, 8))), ...toFloat32(await model.logits(ids.slice(8)))];
    expect(got.length).toBe(want.length);
    return got.reduce((largest, value, i) => Math.max(largest, Math.abs(value - want[i]!)), 0);
  }

  it('has the linears that Python quantized', async () => {
    await using checkpoint = await openCheckpoint(folder);
    expect(checkpoint.layout).toBe('bitsandbytes');
    const quantized = cases.find((item) => item.name === `checkpoint-${name}`)!.quantized_linears;
    expect([...checkpoint.quantized.keys()].toSorted()).toEqual([...quantized].toSorted());
  });

  it("has Python's logits when dequantized", async () => {
    expect(await largestDifference('logits_dequantized_f32', expanded)).toBeLessThan(1e-4);
  });

  it('has about the logits of the Python modules when run from its codes', async () => {
    const difference = await largestDifference('logits_quantized', (checkpoint) => checkpoint);
    expect(difference).toBeLessThan(0.15);
  });
});
