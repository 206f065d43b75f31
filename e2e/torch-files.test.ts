// Folders of hqq's own `save_quantized` (a pickle) and `save_to_safetensors` (without a config block), run here: logits equal those of the weights as
// Python dequantizes them. And a float model as a pickle, which gives what its safetensors give.

import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Checkpoint, createRuntime, dequantize, elements, float32Tensor, referenceBackend, toFloat32 } from '@lowbit/core';
import { hqq } from '@lowbit/hqq';
import { openCheckpoint, quantizeCheckpoint } from '@lowbit/hub';
import { llama, loadModel } from '@lowbit/models';
import { describe, expect, it } from 'vitest';
import { goldenPath, goldenTensors } from '../fixtures/golden.ts';
import { storages, torchFile } from '../packages/hub/src/pickle/testing.ts';

const logits = goldenTensors('hqq/checkpoints/logits.safetensors');

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

async function logitsOf(checkpoint: Checkpoint): Promise<number[]> {
  const ids = Array.from(elements({ dtype: 'i64', data: logits.get('input_ids')!.data }), Number);
  await using runtime = await createRuntime({ backends: [referenceBackend()] });
  await using model = await loadModel(checkpoint, { runtime });
  return [...toFloat32(await model.logits(ids.slice(0, 8))), ...toFloat32(await model.logits(ids.slice(8)))];
}

describe.each([
  { name: 'dynamic-bf16', dtype: 'bf16' as const, quantized: 10, layout: 'hqq' },
  { name: 'b2-g16-a0-f16', dtype: 'f16' as const, quantized: 14, layout: 'hqq-safetensors' },
])('$name', ({ name, dtype, quantized, layout }) => {
  it(`has Python's logits when dequantized in ${dtype}`, async () => {
    await using checkpoint = await openCheckpoint(goldenPath(`hqq/checkpoints/${name}`));
    expect(checkpoint.layout).toBe(layout);
    expect(checkpoint.quantized.size).toBe(quantized);
    const got = await logitsOf(expanded(checkpoint, dtype));
    const want = toFloat32(logits.get(`${name}/logits_dequantized_f32`)!); // [2, 8, vocab]
    expect(got.length).toBe(want.length);
    expect(got.reduce((largest, value, i) => Math.max(largest, Math.abs(value - want[i]!)), 0)).toBeLessThan(1e-4);
  });
});

it('a pytorch_model.bin runs and quantizes as the safetensors of the same model do', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'lowbit-torch-'));
  try {
    await using plain = await openCheckpoint('examples/tiny-llama');
    const { add, data } = storages();
    const content = new Map<string, ReturnType<typeof add>>();
    for (const name of plain.source.entries.keys()) content.set(name, add(await plain.tensor(name)));
    await writeFile(join(folder, 'pytorch_model.bin'), torchFile(content, data));
    await writeFile(join(folder, 'config.json'), (await plain.file('config.json'))!);
    await using pickled = await openCheckpoint(folder);
    expect([...pickled.source.entries]).toEqual([...plain.source.entries]);

    const quantized = async (source: typeof plain, out: string) => {
      await quantizeCheckpoint(source, { out: join(folder, out), quantizer: hqq({ bits: 4 }), adapters: [llama] });
      await using result = await openCheckpoint(join(folder, out));
      return await result.linear('model.layers.0.self_attn.q_proj');
    };
    expect(await quantized(pickled, 'a')).toEqual(await quantized(plain, 'b'));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});
