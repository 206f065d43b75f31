import { createRuntime, linearTag, referenceBackend, toFloat32 } from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import * as golden from '../../../../fixtures/golden.ts';
import { loadModel } from '../model/load-model.ts';
import { goldenContents, goldenFolders, memoryCheckpoint } from '../testing/memory-checkpoint.ts';
import { rowDivergence } from './log-softmax.ts';
import { withNoise } from './noise.ts';
import { perplexity } from './perplexity.ts';
import { randomTokens } from './random-tokens.ts';
import { measureSensitivities } from './sensitivity.ts';

const folder = goldenFolders(golden, 'llama')[0]!;
const checkpoint = memoryCheckpoint(goldenContents(golden, folder));
const vocab = checkpoint.config.vocab_size as number;
const ids = [randomTokens(vocab, 12), randomTokens(vocab, 7, 2)];

/** The slow way: the whole model with one linear replaced, against the whole model. */
async function slowly(path: string, error: number, metric: 'kl' | 'perplexity'): Promise<number> {
  await using runtime = await createRuntime({ backends: [referenceBackend()] });
  await using plain = await loadModel(checkpoint, { runtime });
  await using noisy = await loadModel(checkpoint, { runtime });
  const { weight, bias } = await noisy.weight(path);
  const changed = withNoise(weight, error, `1 ${error} ${path}`);
  const [out, inp] = changed.shape as [number, number];
  const linear = await runtime.linear({ format: { kind: 'dense', dtype: 'f32' }, shape: [out, inp], parts: { weight: changed } }, { bias });
  await noisy.replace(path, linear);
  if (metric === 'perplexity') {
    const nll = async (model: typeof plain): Promise<number> => {
      let sum = 0;
      let tokens = 0;
      for (const sample of ids) {
        const result = await perplexity(model, sample, { contextLength: sample.length });
        sum += result.nll * result.tokens;
        tokens += result.tokens;
      }
      return Math.exp(sum / tokens);
    };
    return (await nll(noisy)) - (await nll(plain));
  }
  let sum = 0;
  for (const sample of ids) {
    const [p, q] = [toFloat32(await plain.logits(sample)), toFloat32(await noisy.logits(sample))];
    for (let row = 0; row < sample.length; row++) {
      sum += rowDivergence(p.subarray(row * vocab, (row + 1) * vocab), q.subarray(row * vocab, (row + 1) * vocab));
    }
  }
  return sum / ids.reduce((total, { length }) => total + length, 0);
}

describe('withNoise', () => {
  it('adds an error of the size asked for, the same for the same key', () => {
    const values = Float32Array.from({ length: 64 * 129 }, (_, i) => Math.sin(i) * (1 + (i % 7)));
    const weight = { dtype: 'f32', shape: [64, 129], data: new Uint8Array(values.buffer) } as const;
    const noisy = toFloat32(withNoise(weight, 0.02, 'a'));
    const square = values.reduce((sum, value) => sum + value * value, 0);
    const error = noisy.reduce((sum, value, i) => sum + (value - values[i]!) ** 2, 0);
    expect(error / square / 0.02).toBeGreaterThan(0.94); // 8,256 numbers: standard error 1.6 %
    expect(error / square / 0.02).toBeLessThan(1.06);
    expect(toFloat32(withNoise(weight, 0.02, 'a'))).toEqual(noisy);
    expect(toFloat32(withNoise(weight, 0.02, 'b'))).not.toEqual(noisy);
    expect(Math.sin(1) * 2).toBeCloseTo(values[1]!, 6); // the weight itself is as it was
  });
});

describe('measureSensitivities', () => {
  it('gives what running the whole model once per linear gives', async () => {
    const backend = referenceBackend();
    await using runtime = await createRuntime({ backends: [backend] });
    const { linears, tokens, metric } = await measureSensitivities(checkpoint, { runtime, ids, levels: [0.01, 0.05] });
    expect([tokens, metric]).toEqual([19, 'kl']);
    expect(linears.map(({ path }) => path)).not.toContain('lm_head');
    expect(new Set(linears.map(({ path }) => linearTag(path))).size).toBe(7);
    for (const { path, sensitivity, points } of [linears[0]!, linears[6]!, linears.at(-1)!]) {
      expect(points.map(({ error }) => error)).toEqual([0.01, 0.05]);
      for (const { error, loss } of points) expect(loss).toBeCloseTo(await slowly(path, error, 'kl'), 12);
      expect(sensitivity).toBeCloseTo((points[0]!.loss * 0.01 + points[1]!.loss * 0.05) / (0.01 ** 2 + 0.05 ** 2), 12);
    }
    for (const { sensitivity } of linears) expect(sensitivity).toBeGreaterThan(0);
    expect((await runtime.backend()).allocated()).toBe(0);
  });

  it('measures perplexity, and any linears, each as if alone', async () => {
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    const paths = ['model.layers.1.mlp.down_proj', 'model.layers.0.self_attn.v_proj'];
    const two = await measureSensitivities(checkpoint, { runtime, ids, metric: 'perplexity', linears: paths });
    expect(two.linears.map(({ path }) => path)).toEqual(paths.toReversed()); // in the order of the model
    for (const { path, points } of two.linears) expect(points[0]!.loss).toBeCloseTo(await slowly(path, 0.02, 'perplexity'), 7);
    const one = await measureSensitivities(checkpoint, { runtime, ids, metric: 'perplexity', linears: [paths[0]!] });
    expect(one.linears[0]).toEqual(two.linears[1]);
  });

  it('measures the output head if it is named', async () => {
    const untied = goldenFolders(golden, 'llama')
      .map((name) => memoryCheckpoint(goldenContents(golden, name)))
      .find(({ source }) => source.entries.has('lm_head.weight'))!;
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    const head = {
      runtime,
      ids: [
        [3, 1, 4, 1, 5],
        [9, 2],
      ],
      linears: ['lm_head', 'model.layers.0.mlp.up_proj'],
    };
    const { linears } = await measureSensitivities(untied, head);
    expect(linears.map(({ path }) => path)).toEqual(['model.layers.0.mlp.up_proj', 'lm_head']);
    for (const { sensitivity } of linears) expect(sensitivity).toBeGreaterThan(0);
  });

  it('gives everything back when stopped, and counts what it does', async () => {
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    const seen: number[] = [];
    let total = 0;
    await measureSensitivities(checkpoint, {
      runtime,
      ids,
      onProgress: (event) => {
        seen.push(event.done);
        total = event.total;
      },
    });
    expect(seen.at(-1)).toBe(total);
    expect(seen).toEqual(seen.toSorted((a, b) => a - b));
    for (const after of [1, Math.floor(seen.length / 2), seen.length - 2]) {
      const controller = new AbortController();
      let steps = 0;
      const stopped = measureSensitivities(checkpoint, {
        runtime,
        ids,
        signal: controller.signal,
        onProgress: () => {
          if (++steps === after) controller.abort(new Error('enough'));
        },
      });
      await expect(stopped).rejects.toThrow('enough');
      expect((await runtime.backend()).allocated()).toBe(0);
    }
  });

  it('refuses what it cannot measure', async () => {
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    const bad = expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' });
    for (const options of [
      { ids: [] },
      { ids: [[]] },
      { ids: [[vocab]] },
      { ids, levels: [] },
      { ids, levels: [0] },
      { ids, levels: [0.1, 0.1] },
      { ids, levels: [Number.NaN] },
      { ids, linears: ['model.layers.99.mlp.up_proj'] },
      { ids: [[1]], metric: 'perplexity' as const },
    ]) {
      await expect(measureSensitivities(checkpoint, { runtime, ...options })).rejects.toThrow(bad);
    }
    await expect(measureSensitivities(checkpoint, { runtime, ids: [new Uint32Array(5000)] })).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_LIMIT' }),
    );
  });
});
