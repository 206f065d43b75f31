import { type Checkpoint, createRuntime, float32Tensor, referenceBackend, toFloat32 } from '@lowbit/core';
import { seededFloats } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import * as golden from '../../../../fixtures/golden.ts';
import { goldenContents, memoryCheckpoint } from '../testing/memory-checkpoint.ts';
import { checkpointImportance } from './importance.ts';
import { linearErrors } from './linear-errors.ts';

const original = memoryCheckpoint(goldenContents(golden, 'perplexity'));
const PATH = 'model.layers.1.mlp.down_proj';
const ids = [
  [5, 9, 2, 77, 31, 8],
  [40, 3, 3, 12],
];

/** The checkpoint with another weight in one linear. */
function changed(change: (value: number, i: number) => number): Checkpoint {
  return {
    ...original,
    source: original.source,
    quantized: original.quantized,
    tensor: (name, options) => original.tensor(name, options),
    async linear(path, options) {
      const weight = await original.linear(path, options);
      if (path !== PATH) return weight;
      const values = toFloat32(weight.parts.weight!).map(change);
      return { ...weight, format: { kind: 'dense', dtype: 'f32' }, parts: { weight: float32Tensor(weight.shape, values) } };
    },
  } as Checkpoint;
}

describe('linearErrors', () => {
  it('of a weight that is a tenth too small: a hundredth, in weight and output alike', async () => {
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    const errors = await linearErrors(
      changed((value) => 0.9 * value),
      original,
      { runtime, ids },
    );
    expect(errors.map(({ path, rows }) => [path, rows])).toEqual([[PATH, 10]]); // all others are as they were
    expect(errors[0]!.weightError).toBeCloseTo(0.01, 6);
    expect(errors[0]!.snrDb).toBeCloseTo(20, 3);
    expect(errors[0]!.outputError).toBeCloseTo(0.01, 6);
    expect(errors[0]!.outputErrorStderr).toBeLessThan(1e-8);
  });

  it('of noise: what the second moments of the inputs say', async () => {
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    const noise = seededFloats(3, 1 << 16);
    const model = changed((value, i) => value + 0.05 * noise[i % noise.length]!);
    const [error] = await linearErrors(model, original, { runtime, ids });
    const { moments } = (await checkpointImportance(original, { runtime, ids, kind: 'matrix' })).get(PATH)!;
    const m = toFloat32(moments);
    const [out, inp] = error!.shape;
    const weight = toFloat32((await original.linear(PATH)).parts.weight!);
    const power = (values: Float32Array): number => {
      let sum = 0;
      for (let r = 0; r < out; r++)
        for (let a = 0; a < inp; a++) for (let b = 0; b < inp; b++) sum += values[r * inp + a]! * m[a * inp + b]! * values[r * inp + b]!;
      return sum;
    };
    const other = toFloat32((await model.linear(PATH)).parts.weight!);
    const expected = power(weight.map((w, i) => w - other[i]!)) / power(weight);
    expect(error!.outputError / expected).toBeCloseTo(1, 3);
    expect(error!.outputErrorStderr).toBeGreaterThan(0.01 * expected);
    expect(error!.outputErrorStderr).toBeLessThan(expected);
  });

  it('refuses a model of other shapes, and nothing to run', async () => {
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    const cut = changed((value) => value);
    const wrong: Checkpoint = {
      ...cut,
      linear: async (path) => {
        const weight = await original.linear(path);
        const values = new Float32Array(weight.shape[0] * 8);
        return path === PATH
          ? { ...weight, shape: [weight.shape[0], 8], parts: { weight: float32Tensor([weight.shape[0], 8], values) } }
          : weight;
      },
    };
    await expect(linearErrors(wrong, original, { runtime, ids })).rejects.toMatchObject({ code: 'ERR_TENSOR_MISMATCH' });
    await expect(linearErrors(cut, original, { runtime, ids: [] })).rejects.toMatchObject({
      code: 'ERR_BAD_ARGUMENT',
      hint: expect.stringContaining('randomTokens'),
    });
    const misspelt = { runtime, ids, adapter: [] } as Parameters<typeof linearErrors>[2];
    await expect(linearErrors(cut, original, misspelt)).rejects.toMatchObject({
      code: 'ERR_BAD_ARGUMENT',
      hint: expect.stringMatching(/^Did you mean adapters\?/),
    });
  });

  it.each([Number.NaN, Number.POSITIVE_INFINITY])('tells that there is no error where a weight is %d', async (bad) => {
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    const broken = changed((value, i) => (i === 7 ? bad : value));
    const failure = (who: string) => ({
      code: 'ERR_NON_FINITE',
      message: expect.stringContaining(`${PATH} in the ${who}`),
      details: { path: PATH },
    });
    await expect(linearErrors(broken, original, { runtime, ids })).rejects.toMatchObject(failure('model'));
    await expect(linearErrors(original, broken, { runtime, ids })).rejects.toMatchObject(failure('reference'));
  });
});
