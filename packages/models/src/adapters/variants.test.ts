// Settings of the families that the golden models do not show, against transformers: fixtures/golden/models-variants.

import { readdirSync } from 'node:fs';
import { createRuntime, elements, type HostTensor, type JsonObject, type Runtime, referenceBackend, toFloat32 } from '@lowbit/core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { goldenJson, goldenPath, goldenTensors } from '../../../../fixtures/golden.ts';
import { loadModel } from '../model/load-model.ts';
import { memoryCheckpoint } from '../testing/memory-checkpoint.ts';

const TOLERANCE = 2e-4;
const folders = readdirSync(goldenPath('models-variants')).filter((name) => name !== 'make');

let runtime: Runtime;
beforeAll(async () => {
  runtime = await createRuntime({ backends: [referenceBackend()] });
});
afterAll(() => runtime[Symbol.asyncDispose]());

test('there are fourteen', () => expect(folders.length).toBe(14));

describe.each(folders)('%s', (folder) => {
  const at = `models-variants/${folder}`;
  const expected = goldenTensors(`${at}/expected.safetensors`);
  const ids = (name: string): number[] => Array.from(elements({ dtype: 'i64', data: expected.get(name)!.data }), Number);
  const config = goldenJson<JsonObject>(`${at}/config.json`);
  const checkpoint = () => memoryCheckpoint({ label: folder, config, tensors: goldenTensors(`${at}/model.safetensors`), files: {} });

  test.each([512, 6])('logits and greedy text, in steps of %i', async (prefillChunk) => {
    await using model = await loadModel(checkpoint(), { runtime, prefillChunk });
    const prompt = ids('input_ids');
    const encoded = config.model_type === 't5';
    const logits: HostTensor = encoded ? await model.logits(ids('decoder_input_ids'), { encoderIds: prompt }) : await model.logits(prompt);
    const want = toFloat32(expected.get('logits')!);
    const got = toFloat32(logits);
    expect(got.length).toBe(want.length);
    expect(got.reduce((most, value, i) => Math.max(most, Math.abs(value - want[i]!)), 0)).toBeLessThanOrEqual(TOLERANCE);
    const generated = ids('generated');
    expect((await model.generate({ ids: prompt, maxTokens: generated.length, temperature: 0, ignoreEos: true })).ids).toEqual(generated);
  });
});
