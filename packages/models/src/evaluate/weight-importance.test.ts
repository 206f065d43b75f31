import { createRuntime, elements, type Importance, referenceBackend, toFloat32 } from '@lowbit/core';
import { loadProgram, ProgramBuilder } from '@lowbit/program';
import { decoderCase, seededFloats, seededTensor } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import * as golden from '../../../../fixtures/golden.ts';
import { goldenContents, memoryCheckpoint } from '../testing/memory-checkpoint.ts';
import { checkpointImportance } from './importance.ts';
import { estimate, weightImportance } from './weight-importance.ts';

const values = ({ moments }: Importance): number[] => [...toFloat32(moments)];

describe('weightImportance', () => {
  it('is the squared weight behind a norm, row energies behind a linear, spread over the heads behind attention', async () => {
    const b = new ProgramBuilder({ layers: 1 });
    const x = b.embed(b.addLinear('embed', [8, 4], { use: 'embedding' }));
    b.layer = 0;
    const weight = { dtype: 'f32', shape: [4], data: new Uint8Array(Float32Array.of(1, 2, 0, -3).buffer) } as const;
    const h = b.norm(x, { kind: 'rms', eps: 1e-6, weight: b.addConstant(weight) });
    const q = b.linear(h, b.addLinear('q', [8, 4]));
    const k = b.linear(h, b.addLinear('k', [4, 4]));
    const v = b.linear(h, b.addLinear('v', [4, 4]));
    const cache = b.addCache({ heads: 2, keyDim: 2, valueDim: 2 });
    const attended = b.attend(q, { k, v, cache, heads: 4, kvHeads: 2, keyDim: 2, valueDim: 2, scale: 1, causal: true });
    b.output('y', b.linear(attended, b.addLinear('o', [4, 8])));
    const matrix = seededTensor(3, [4, 4]);
    const reads: string[] = [];
    const found = await estimate(b.build(), async ({ path, shape }) => {
      reads.push(path);
      return { format: { kind: 'dense', dtype: 'f32' }, shape, parts: { weight: matrix } };
    });
    expect(values(found.get('q')!)).toEqual([1, 4, 0, 9]);
    expect(found.get('v')!.moments).toEqual(found.get('q')!.moments);
    const w = toFloat32(matrix);
    const energy = [0, 1, 2, 3].map((row) => w[4 * row]! ** 2 + 4 * w[4 * row + 1]! ** 2 + 9 * w[4 * row + 3]! ** 2);
    const expected = [0, 1, 0, 1, 2, 3, 2, 3].map((i) => energy[i]!); // two query heads to a head of values
    for (const [i, value] of values(found.get('o')!).entries()) expect(value).toBeCloseTo(expected[i]!, 5);
    expect(reads).toEqual(['v']); // nothing else's outputs are read by a linear
  });

  it('is what normal inputs have: a gated MLP, and experts each with their own', async () => {
    const width = 48;
    const b = new ProgramBuilder({ layers: 1 });
    const x = b.input('x', { width });
    b.layer = 0;
    const h = b.norm(x, { kind: 'rms', eps: 0 });
    const gate = b.linear(h, b.addLinear('gate', [16, width]));
    const up = b.linear(h, b.addLinear('up', [16, width]));
    const inner = b.gate(gate, up, 'silu');
    b.output('inner', inner);
    b.output('y', b.linear(inner, b.addLinear('down', [8, 16])));
    const program = b.build();
    const weights = new Map([...program.linears].map(({ path, shape }, i) => [path, seededTensor(11 + i, shape)]));
    const load = ({ path, shape }: { path: string; shape: readonly [number, number] }) => ({
      format: { kind: 'dense', dtype: 'f32' } as const,
      shape,
      parts: { weight: weights.get(path)! },
    });
    const found = values((await estimate(program, async (use) => load(use))).get('down')!);
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    const count = 4096;
    await using loaded = await loadProgram(runtime, program, async (use) => ({ weight: load(use) }), { contextLength: count });
    // Sums of uniform numbers: near enough to a normal distribution.
    const uniform = seededFloats(5, 6 * count * width);
    const rows = Float32Array.from({ length: count * width }, (_, i) =>
      [0, 1, 2, 3, 4, 5].reduce((sum, j) => sum + uniform[6 * i + j]!, 0),
    );
    const step = { id: loaded.open(), tokens: new Uint32Array(count), wanted: Uint32Array.from({ length: count }, (_, i) => i) };
    const input = { dtype: 'f32', shape: [count, width], data: new Uint8Array(rows.buffer) } as const;
    const outputs = elements({ dtype: 'f32', data: (await loaded.step([{ ...step, inputs: { x: input } }])).inner!.data });
    for (let channel = 0; channel < 16; channel++) {
      let sum = 0;
      for (let row = 0; row < count; row++) sum += outputs[row * 16 + channel]! ** 2;
      // Gate and up of one row are correlated, which the estimate leaves out.
      expect(Math.abs(Math.log(found[channel]! / (sum / count)))).toBeLessThan(0.8);
    }
  });

  it('refuses options that it does not have', async () => {
    const checkpoint = memoryCheckpoint(goldenContents(golden, 'opt'));
    await expect(weightImportance(checkpoint, { adapter: [] } as object)).rejects.toMatchObject({
      code: 'ERR_BAD_ARGUMENT',
      hint: expect.stringMatching(/^Did you mean adapters\?/),
    });
  });

  it('knows every linear that running the model knows, experts among them', async () => {
    const one = decoderCase();
    const found = await estimate(one.test.program, async ({ path }) => one.test.weights.get(path)!);
    const used = one.test.program.ops.flatMap((op) => (op.op === 'linear' ? [op.weight] : op.op === 'expertLinear' ? op.linears : []));
    expect([...found.keys()].sort()).toEqual([...new Set(used.map((id) => one.test.program.linears[id]!.path))].sort());
    for (const importance of found.values()) for (const value of values(importance)) expect(value).toBeGreaterThanOrEqual(0);
  });

  it.each(['olmo2', 'opt', 'gemma3', 'granite', 'mixtral-published', 'qwen2-moe', 'gpt2', 'bloom', 't5-gated'])(
    'finds its way through %s',
    async (family) => {
      const checkpoint = memoryCheckpoint(goldenContents(golden, family));
      const found = await weightImportance(checkpoint);
      expect(found.size).toBeGreaterThan(3);
      for (const [path, importance] of found)
        for (const value of values(importance)) expect([path, Number.isFinite(value)]).toEqual([path, true]);
      if (family === 't5-gated') return;
      await using runtime = await createRuntime({ backends: [referenceBackend()] });
      const measured = await checkpointImportance(checkpoint, { runtime, ids: [[3, 5, 8, 13, 21]] });
      for (const [path, { moments }] of measured) {
        // OLMo 2 has no norm in front of its first layer, which reads the embedding.
        if (family === 'olmo2' && /layers\.0\.self_attn\.[qkv]_proj/.test(path)) expect(found.has(path)).toBe(false);
        else expect([path, found.get(path)?.moments.shape]).toEqual([path, moments.shape]);
      }
    },
  );
});
