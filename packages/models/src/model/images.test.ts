// Image towers and LLaVA against what transformers and timm made of the same weights, on the reference backend. On kernels-cpu: e2e/images.test.ts.

import { createRuntime, type HostTensor, type Runtime, referenceBackend, toFloat32 } from '@lowbit/core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import * as golden from '../../../../fixtures/golden.ts';
import { type Contents, goldenContents, memoryCheckpoint } from '../testing/memory-checkpoint.ts';
import { loadImageTower } from './image-tower.ts';
import { loadModel } from './load-model.ts';

let runtime: Runtime;
beforeAll(async () => {
  runtime = await createRuntime({ backends: [referenceBackend()] });
});
afterAll(() => runtime[Symbol.asyncDispose]());

const ids = (tensor: HostTensor): number[] => Array.from(toFloat32(tensor));

/** Entry `index` of the first axis. */
function entry({ dtype, shape, data }: HostTensor, index: number): HostTensor {
  const bytes = data.length / shape[0]!;
  return { dtype, shape: shape.slice(1), data: data.slice(index * bytes, (index + 1) * bytes) };
}

function maxDifference(got: HostTensor, expected: HostTensor): number {
  const [a, b] = [toFloat32(got), toFloat32(expected)];
  expect(a.length).toBe(b.length);
  let worst = 0;
  for (let i = 0; i < a.length; i++) worst = Math.max(worst, Math.abs(a[i]! - b[i]!));
  return Number.isNaN(a.reduce((sum, x) => sum + x, 0)) ? Number.NaN : worst;
}

function relative(got: HostTensor, expected: HostTensor): number {
  const scale = toFloat32(expected).reduce((most, x) => Math.max(most, Math.abs(x)), 1);
  return maxDifference(got, expected) / scale;
}

/** The model under the names that transformers 5 gives its tensors, with the config it writes. */
function later(folder: string): Contents {
  const { tensors, ...rest } = goldenContents(golden, folder, 'config.v5.json');
  if (folder !== 'llava') return { ...rest, tensors };
  const names = golden.goldenJson<Record<string, string>>('models/llava/names.v5.json');
  return { ...rest, tensors: new Map([...tensors].map(([name, tensor]) => [names[name]!, tensor])) };
}

describe.each([
  ['as published', (folder: string) => goldenContents(golden, folder)],
  ['as transformers 5 writes it', later],
])('%s', (_, contents) => {
  test('clip-vision: hidden states, pooled rows and embeddings of two images', async () => {
    const expected = golden.goldenTensors('models/clip-vision/expected.safetensors');
    const observe = ['hidden.0', 'hidden.1', 'hidden.2', 'hidden.3'];
    await using tower = await loadImageTower(memoryCheckpoint(contents('clip-vision')), { runtime, observe });
    expect(tower.input).toEqual({ channels: 3, height: 24, width: 24 });
    const images = [0, 1].map((index) => entry(expected.get('pixel_values')!, index));
    const outputs = await tower.forward(images);
    for (const [index, got] of outputs.entries()) {
      expect(Object.keys(got).sort()).toEqual([...observe, 'image_embeds', 'last_hidden_state', 'pooler_output'].sort());
      for (const [name, tensor] of Object.entries(got)) {
        expect(relative(tensor, entry(expected.get(name)!, index)), name).toBeLessThanOrEqual(1e-4);
      }
    }
    const [first] = await tower.embed(images);
    expect(first).toEqual(outputs[0]!.image_embeds);
  });

  test('llava: image features, logits, and what it says of the image', async () => {
    const expected = golden.goldenTensors('models/llava/expected.safetensors');
    const image = entry(expected.get('pixel_values')!, 0);
    const prompt = ids(expected.get('input_ids')!);
    const checkpoint = memoryCheckpoint(contents('llava'));
    {
      await using tower = await loadImageTower(checkpoint, { runtime });
      const [features] = await tower.embed([image]);
      expect(relative(features!, expected.get('image_features')!)).toBeLessThanOrEqual(2e-4);
    }
    const want = ids(expected.get('generated')!);
    for (const prefillChunk of [512, 7]) {
      await using model = await loadModel(checkpoint, { runtime, prefillChunk });
      expect(model.images).toEqual({ rows: 25, placeholder: 303 });
      const logits = await model.logits(prompt, { images: [image] });
      expect(maxDifference(logits, expected.get('logits')!)).toBeLessThanOrEqual(2e-4);
      const greedy = { images: [image], maxTokens: want.length, temperature: 0, ignoreEos: true };
      const result = await model.generate({ ids: prompt, ...greedy });
      expect(result.ids).toEqual(want);
      // One placeholder does for all of them.
      const short = prompt.filter((id, i) => id !== 303 || prompt[i - 1] !== 303);
      expect(short.length).toBe(prompt.length - 24);
      const again = await model.generate({ ids: short, ...greedy });
      expect(again.ids).toEqual(want);
      expect(again.usage.promptTokens).toBe(prompt.length);
    }
  });
});

test('timm-vit: features of all rows and logits of two images', async () => {
  const expected = golden.goldenTensors('models/timm-vit/expected.safetensors');
  await using tower = await loadImageTower(memoryCheckpoint(goldenContents(golden, 'timm-vit')), { runtime });
  const images = [0, 1].map((index) => entry(expected.get('pixel_values')!, index));
  for (const [index, got] of (await tower.forward(images)).entries()) {
    for (const name of ['features', 'logits']) {
      expect(relative(got[name]!, entry(expected.get(name)!, index)), name).toBeLessThanOrEqual(1e-4);
    }
  }
});

/** A model of fixtures/golden/towers. */
function variant(folder: string): { readonly contents: Contents; readonly expected: ReadonlyMap<string, HostTensor> } {
  const at = `towers/${folder}`;
  return {
    contents: {
      label: folder,
      config: golden.goldenJson(`${at}/config.json`),
      tensors: golden.goldenTensors(`${at}/model.safetensors`),
      files: {},
    },
    expected: golden.goldenTensors(`${at}/expected.safetensors`),
  };
}

test.each([
  ['clip-both', ['last_hidden_state', 'pooler_output', 'image_embeds']],
  ['timm-clip', ['features', 'pooled']],
])('%s: all outputs of two images', async (folder, names) => {
  const { contents, expected } = variant(folder);
  await using tower = await loadImageTower(memoryCheckpoint(contents), { runtime });
  const images = [0, 1].map((index) => entry(expected.get('pixel_values')!, index));
  for (const [index, got] of (await tower.forward(images)).entries()) {
    expect(Object.keys(got).sort()).toEqual([...names].sort());
    for (const name of names) expect(relative(got[name]!, entry(expected.get(name)!, index)), name).toBeLessThanOrEqual(1e-4);
  }
});

test('llava-full: a Mistral that sees two images, all rows of them', async () => {
  const { contents, expected } = variant('llava-full');
  const images = [0, 1].map((index) => entry(expected.get('pixel_values')!, index));
  const prompt = ids(expected.get('input_ids')!);
  for (const prefillChunk of [512, 5]) {
    await using model = await loadModel(memoryCheckpoint(contents), { runtime, prefillChunk });
    expect(maxDifference(await model.logits(prompt, { images }), expected.get('logits')!)).toBeLessThanOrEqual(2e-4);
    const want = ids(expected.get('generated')!);
    const { ids: got } = await model.generate({ ids: prompt, images, maxTokens: want.length, temperature: 0, ignoreEos: true });
    expect(got).toEqual(want);
  }
});
