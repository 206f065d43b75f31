// Feedback through a whole model: moments are found a layer at a time while it is quantized.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createRuntime, type Runtime } from '@lowbit/core';
import { hqq } from '@lowbit/hqq';
import { checkpointImportance, klDivergence, loadModel, withFeedback } from '@lowbit/models';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findBackends } from './backends.ts';
import { generatedTokens } from './generated-tokens.ts';
import { openModelFolder } from './open.ts';
import { quantizeModel, quantizeModelShard } from './quantize-model.ts';

const TINY = fileURLToPath(new URL('../../../examples/tiny-llama', import.meta.url));
const plain = hqq({ bits: 3, solver: 'least-squares' });
const quantizer = withFeedback(plain);
const weightsOf = (folder: string): Buffer => readFileSync(join(folder, 'model.safetensors'));
let dir = '';
let runtime: Runtime;
let ids: readonly (readonly number[])[] = [];

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'lowbit-feedback-'));
  runtime = await createRuntime({ backends: await findBackends('auto', { threads: 2 }) }); // the native one, where it is built: the reference takes minutes
  await using checkpoint = await openModelFolder(TINY);
  ids = await generatedTokens(checkpoint, { runtime, tokens: 1024, sample: 128, seed: 1 });
});
afterAll(async () => {
  await runtime?.[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
});

describe('feedback', () => {
  it('is closer to the original than least squares by the same samples, and the bytes are those of all moments at once', async () => {
    const [fed, unfed, whole] = ['fed', 'unfed', 'whole'].map((name) => join(dir, name)) as [string, string, string];
    const { importance } = await quantizeModel(TINY, { out: fed, quantizer, importance: { ids }, runtime });
    expect(importance).toEqual({ from: 'text', tokens: 1024, estimated: [], why: null });
    await using checkpoint = await openModelFolder(TINY);
    const moments = await checkpointImportance(checkpoint, { runtime, ids, kind: 'matrix' });
    await quantizeModel(TINY, { out: whole, quantizer, importance: moments, runtime });
    expect(weightsOf(fed).equals(weightsOf(whole))).toBe(true);
    await quantizeModel(TINY, { out: unfed, quantizer: plain, importance: moments, runtime });

    const text: { readonly bos: number; readonly ids: readonly number[] } = JSON.parse(
      readFileSync(fileURLToPath(new URL('../../../fixtures/golden/quality-ids-tiny.json', import.meta.url)), 'utf8'),
    );
    const windows = [0].map((i) => [text.bos, ...text.ids.slice(255 * i, 255 * i + 255)]);
    await using original = await loadModel(checkpoint, { runtime });
    const kl: number[] = [];
    for (const folder of [fed, unfed]) {
      await using made = await openModelFolder(folder);
      await using model = await loadModel(made, { runtime });
      kl.push((await klDivergence(original, model, windows)).kl);
    }
    expect(kl[0]! / kl[1]!).toBeLessThan(0.8);
  }, 600_000);

  it('goes on where a run was stopped, to the same bytes', async () => {
    const [out, once] = [join(dir, 'resumed'), join(dir, 'once')];
    const few = ids.slice(0, 1);
    await quantizeModel(TINY, { out: once, quantizer, importance: { ids: few }, runtime });
    const stop = new AbortController();
    const stopped = quantizeModel(TINY, {
      ...{ out, quantizer, importance: { ids: few }, runtime, resume: true, signal: stop.signal },
      onProgress: ({ phase, item }) => {
        if (phase === 'quantize' && item === 'model.layers.3.mlp.gate_proj') stop.abort();
      },
    });
    await expect(stopped).rejects.toThrow(expect.objectContaining({ name: 'AbortError' }));
    const { resumed } = await quantizeModel(TINY, { out, quantizer, importance: { ids: few }, runtime, resume: true });
    expect(resumed).toBeGreaterThan(20);
    expect(weightsOf(out).equals(weightsOf(once))).toBe(true);
  }, 600_000);

  it('refuses sources without samples, and shares of the work', async () => {
    const bad = expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' });
    const out = join(dir, 'refused');
    await expect(quantizeModel(TINY, { out, quantizer, importance: 'weights', runtime })).rejects.toThrow(bad);
    await expect(quantizeModel(TINY, { out, quantizer, runtime })).rejects.toThrow(bad);
    const shard = { index: 1, count: 2 };
    await expect(quantizeModelShard(TINY, { out, shard, quantizer, importance: { ids }, runtime })).rejects.toThrow(bad);
  });
});
