// Linears that share a tensor of the checkpoint, as experts that are stored as one do, and linears that stay in floating point unless they are named.

import type { CheckpointLayout, HostTensor, LinearSite, Matrix, ModelAdapter, Quantizer, Rule } from '@lowbit/core';
import { castFloat, float32Tensor, memorySource, toFloat32 } from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import { memorySink } from './memory-sink.ts';
import { executePlan } from './pipeline.ts';
import { planCheckpoint } from './plan.ts';

const SHAPE: Matrix = [4, 6];
const EXPERTS = 3;
const FUSED = 'model.layers.0.mlp.experts.up';

/** Stores the weight as bf16, which is a format as good as any. */
const rounding: Quantizer = {
  spec: 1,
  method: 'rounding',
  config: {},
  identity: 'rounding',
  format: () => ({ kind: 'dense', dtype: 'bf16' }),
  async quantize(weight, _format, out) {
    const count = weight.shape[0] * weight.shape[1];
    const half = count / 2;
    for (const from of [half, 0]) {
      const values = new Float32Array(half);
      await weight.read(from, from + half, values);
      await out.write('weight', from, castFloat(float32Tensor([half], values), 'bf16').data);
    }
    return { squaredError: 0, squaredWeight: 1, maxAbs: 0 };
  },
};

const layout: CheckpointLayout = {
  spec: 1,
  name: 'rounded',
  detect: () => false,
  read: async () => new Map(),
  accepts: () => true,
  tensors: ({ site: { path, shape } }) => [{ name: `${path}.rounded`, spec: { dtype: 'bf16', shape }, content: { part: 'weight' } }],
  config: () => ({ quant_method: 'rounded' }),
  loadsIn: () => [],
};

const expert = (index: number): LinearSite => ({
  path: `model.layers.0.mlp.experts.${index}.up`,
  tag: 'mlp.experts.up',
  layer: 0,
  expert: index,
  shape: SHAPE,
  bias: false,
  stacked: { tensor: FUSED, row: index * SHAPE[0] },
});
const experts = [0, 1, 2].map(expert);
const router: LinearSite = { path: 'model.layers.0.mlp.gate', tag: 'mlp.gate', layer: 0, shape: [EXPERTS, 6], bias: false, keep: true };

const adapterOf = (sites: readonly LinearSite[]): ModelAdapter => ({
  spec: 1,
  modelTypes: ['toy'],
  linears: () => sites,
  describe: () => Promise.reject(new Error('not run here')),
});

const numbers = (shape: readonly number[], first = 0): HostTensor =>
  float32Tensor(
    shape,
    Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => first + i / 8),
  );
const tensors = { [FUSED]: numbers([EXPERTS, ...SHAPE]), 'model.layers.0.mlp.gate.weight': numbers([EXPERTS, 6], 100) };

async function run(rules: readonly Rule[], sites: readonly LinearSite[] = [...experts, router]) {
  const source = memorySource(tensors);
  const plan = planCheckpoint({ model_type: 'toy' }, source.entries, {
    quantizer: rounding,
    rules,
    adapters: [adapterOf(sites)],
    layouts: [layout],
  });
  const sink = memorySink();
  await sink.reserve(new Map([...plan.tensors].map(([name, { spec }]) => [name, spec])), {});
  const report = await executePlan(plan, source, sink);
  return { plan, report, written: sink.tensors };
}

const part = (index: number): Float32Array => toFloat32(tensors[FUSED]!).subarray(index * 24, (index + 1) * 24);

describe('linears that share a tensor', () => {
  it('are written each by itself', async () => {
    const { written, plan, report } = await run([]);
    expect([...written.keys()]).toEqual([...experts.map(({ path }) => `${path}.rounded`), `${router.path}.weight`]);
    for (const [i, { path }] of experts.entries()) expect(toFloat32(written.get(`${path}.rounded`)!)).toEqual(part(i));
    expect(report.linears.map(({ path }) => path)).toEqual(experts.map(({ path }) => path));
    expect(plan.fingerprint).toContain(FUSED);
  });

  it('stay one if all of them are kept', async () => {
    const { written } = await run([
      { match: 'mlp.experts.up', use: 'keep' },
      { match: 'mlp.gate', use: rounding },
    ]);
    expect(written.get(FUSED)).toEqual(tensors[FUSED]);
    expect(written.size).toBe(2);
  });

  it('leave what is kept of a tensor, of which some are not, as a weight of its own', async () => {
    const { written } = await run([{ match: 'mlp.experts.1.up', use: 'keep' }]);
    expect(written.has(FUSED)).toBe(false);
    expect(written.get(`${experts[1]!.path}.weight`)).toMatchObject({ dtype: 'f32', shape: SHAPE });
    expect(toFloat32(written.get(`${experts[1]!.path}.weight`)!)).toEqual(part(1));
    expect(toFloat32(written.get(`${experts[2]!.path}.rounded`)!)).toEqual(part(2));
  });

  it.each([
    ['beyond its rows', { row: 9 }],
    ['with other columns', { shape: [4, 5] as Matrix, row: 0 }],
    ['that is not there', { tensor: 'model.layers.0.mlp.experts.down', row: 0 }],
  ])('must lie in it: %s', async (_, { shape = SHAPE, tensor = FUSED, row }: { shape?: Matrix; tensor?: string; row: number }) => {
    const wrong = { ...experts[0]!, shape, stacked: { tensor, row } };
    await expect(run([], [wrong])).rejects.toMatchObject({ code: 'ERR_TENSOR_MISMATCH', message: expect.stringContaining(tensor) });
  });
});

describe('linears that stay in floating point', () => {
  it('are quantized if a rule names them', async () => {
    const { plan } = await run([{ match: '**', use: rounding }]);
    expect(plan.linears.every(({ use }) => use !== 'keep')).toBe(true);
    const { plan: plain } = await run([]);
    expect(plain.linears.filter(({ use }) => use === 'keep').map(({ site }) => site.path)).toEqual([router.path]);
  });
});
