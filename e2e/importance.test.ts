// Importance from random tokens, end to end: collected layer by layer from a checkpoint, used by a quantizer, and felt at the output.

import { fileURLToPath } from 'node:url';
import { createRuntime, type Importance, patchLinears, referenceBackend, toFloat32 } from '@lowbit/core';
import { hqq } from '@lowbit/hqq';
import { openCheckpoint } from '@lowbit/hub';
import { checkpointImportance, loadModel } from '@lowbit/models';
import { expect, it } from 'vitest';

const TINY = fileURLToPath(new URL('../examples/tiny-llama', import.meta.url));

/** Deterministic token ids. */
function randomIds(count: number, vocab: number): number[] {
  let state = 7;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 20 + (state % (vocab - 40));
  });
}

it('has every linear of the model, with the channels that matter more', async () => {
  await using checkpoint = await openCheckpoint(TINY);
  await using runtime = await createRuntime({ backends: [referenceBackend()] });
  const ids = randomIds(512, 4096);
  const importance = await checkpointImportance(checkpoint, { runtime, ids: [ids.slice(0, 256), ids.slice(256)] });
  expect([...importance.keys()].filter((path) => path.startsWith('model.layers.')).length).toBe(42);
  const of = (path: string): Importance => importance.get(`model.layers.2.${path}`)!;
  expect(of('mlp.down_proj').moments.shape).toEqual([768]);
  expect(of('self_attn.q_proj')).toMatchObject({ kind: 'diagonal', rows: 512 });
  expect(of('self_attn.v_proj').moments).toEqual(of('self_attn.q_proj').moments); // the same input
  for (const { moments } of importance.values()) for (const value of toFloat32(moments)) expect(value).toBeGreaterThan(0);

  // Weighted by importance, the error of the outputs is smaller than without, at the same bits and in the same format.
  const outputError = async (use: ReadonlyMap<string, Importance> | undefined): Promise<number> => {
    await using model = await loadModel(checkpoint, { runtime });
    const sample = randomIds(128, 4095);
    const before = toFloat32(await model.logits(sample)).slice();
    const quantizer = hqq({ bits: 3, solver: 'least-squares' });
    await patchLinears(model, [{ match: 'mlp.down_proj', use: quantizer }], { runtime, importance: use });
    const after = toFloat32(await model.logits(sample));
    return after.reduce((sum, value, i) => sum + (value - before[i]!) ** 2, 0);
  };
  expect(await outputError(importance)).toBeLessThan(0.97 * (await outputError(undefined)));
});
