import { type Backend, createRuntime, elements, type Program, referenceBackend, toFloat32 } from '@lowbit/core';
import { loadProgram, ProgramBuilder } from '@lowbit/program';
import { decoderCase, seededTensor } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { collectImportance } from './collect-importance.ts';

const one = decoderCase();
const samples = [Uint32Array.of(1, 2, 3, 4, 5, 6, 7), Uint32Array.of(9, 3), Uint32Array.of(5, 5, 5, 1)];
const loadWeight = async ({ path }: { path: string }): Promise<{ weight: NonNullable<ReturnType<typeof one.test.weights.get>> }> => ({
  weight: one.test.weights.get(path)!,
});

/** Inputs of every linear from the whole program at once: rows by path. */
async function wholeInputs(program: Program): Promise<Map<string, number[][]>> {
  const outputs: Record<string, number> = {};
  for (const op of program.ops) {
    if (op.op === 'linear' || op.op === 'expertLinear') outputs[`t${op.x}`] = op.x;
    if (op.op === 'expertLinear') outputs[`t${op.ids}`] = op.ids;
  }
  await using runtime = await createRuntime({ backends: [referenceBackend()] });
  await using loaded = await loadProgram(runtime, { ...program, outputs }, loadWeight, { contextLength: 16 });
  const rows = new Map<string, number[][]>();
  for (const tokens of samples) {
    const got = await loaded.step([{ id: loaded.open(), tokens, wanted: Uint32Array.from(tokens.keys()) }]);
    const list = (id: number): number[][] => {
      const t = got[`t${id}`]!;
      const values = [...(t.dtype === 'i32' ? elements({ dtype: 'i32', data: t.data }) : toFloat32(t))];
      return Array.from({ length: t.shape[0]! }, (_, i) => values.slice(i * t.shape[1]!, (i + 1) * t.shape[1]!));
    };
    for (const op of program.ops) {
      if (op.op === 'linear') {
        const { path } = program.linears[op.weight]!;
        rows.set(path, [...(rows.get(path) ?? []), ...list(op.x)]);
      } else if (op.op === 'expertLinear') {
        const perToken = program.tensors[op.x]!.rows === 'tokens';
        for (const [t, chosen] of list(op.ids).entries()) {
          for (const [j, expert] of chosen.entries()) {
            const { path } = program.linears[op.linears[expert]!]!;
            rows.set(path, [...(rows.get(path) ?? []), list(op.x)[perToken ? t : t * chosen.length + j]!]);
          }
        }
      }
    }
  }
  return rows;
}

describe('collectImportance', () => {
  it.each(['diagonal', 'matrix'] as const)('gives the %s moments of the whole model at once', async (kind) => {
    const expected = await wholeInputs(one.test.program);
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    const found = await collectImportance(one.test.program, { runtime, loadWeight, ids: samples, kind });
    expect([...found.keys()].sort()).toEqual([...expected.keys()].sort());
    expect([...found.keys()]).toContain('embed'); // the tied head
    for (const [path, rows] of expected) {
      const { moments, rows: count, kind: got } = found.get(path)!;
      const width = rows[0]!.length;
      expect([got, count, [...moments.shape]]).toEqual([kind, rows.length, kind === 'matrix' ? [width, width] : [width]]);
      const values = toFloat32(moments);
      for (let i = 0; i < width; i++) {
        for (let j = 0; j < (kind === 'matrix' ? width : 1); j++) {
          const other = kind === 'matrix' ? j : i;
          const mean = rows.reduce((sum, row) => sum + row[i]! * row[other]!, 0) / rows.length;
          expect(Math.abs(values[kind === 'matrix' ? i * width + j : i]! - mean)).toBeLessThanOrEqual(1e-6 * Math.max(1, Math.abs(mean)));
        }
      }
    }
  });

  it('holds one layer at a time, and nothing in the end', async () => {
    // Wide layers and few tokens, so that weights are what counts.
    const width = 64;
    const layers = 4;
    const b = new ProgramBuilder({ layers });
    let x = b.embed(b.addLinear('embed', [16, width], { use: 'both' }));
    for (let layer = 0; layer < layers; layer++) {
      b.layer = layer;
      const h = b.linear(b.norm(x, { kind: 'rms', eps: 1e-5 }), b.addLinear(`${layer}.up`, [256, width]));
      x = b.add(x, b.linear(b.activate(h, 'silu'), b.addLinear(`${layer}.down`, [width, 256])));
    }
    b.layer = layers;
    b.output('logits', b.linear(b.select(x), 0));
    const provider = referenceBackend();
    let backend: Backend | undefined;
    await using runtime = await createRuntime({ backends: [{ ...provider, open: async () => (backend = await provider.open()) }] });
    let peak = 0;
    const loads: string[] = [];
    const found = await collectImportance(b.build(), {
      runtime,
      kind: 'diagonal',
      ids: [Uint32Array.of(1, 2)],
      loadWeight: async ({ path, shape }) => {
        loads.push(path);
        peak = Math.max(peak, backend!.allocated());
        return { weight: { format: { kind: 'dense', dtype: 'f32' }, shape, parts: { weight: seededTensor(1, shape) } } };
      },
    });
    expect(found.size).toBe(2 * layers + 1);
    const layerBytes = 4 * 2 * 256 * width;
    expect(peak).toBeLessThanOrEqual(layerBytes / 2 + 4 * 16 * width); // when a layer's second weight is read, its first is there
    expect(loads.filter((path) => path === '0.up')).toHaveLength(1);
    // the head's product is not needed, so its weight is read for the embedding alone
    expect(loads.filter((path) => path === 'embed')).toHaveLength(1);
    expect(backend!.allocated()).toBe(0);
  });

  it('stops when aborted and gives everything back', async () => {
    const provider = referenceBackend();
    let backend: Backend | undefined;
    await using runtime = await createRuntime({ backends: [{ ...provider, open: async () => (backend = await provider.open()) }] });
    const controller = new AbortController();
    const seen: number[] = [];
    const done = collectImportance(one.test.program, {
      runtime,
      loadWeight,
      ids: samples,
      kind: 'diagonal',
      signal: controller.signal,
      onProgress: ({ done }) => {
        seen.push(done);
        if (done === 2) controller.abort(new Error('enough'));
      },
    });
    await expect(done).rejects.toThrow('enough');
    expect(seen).toEqual([1, 2]);
    expect(backend!.allocated()).toBe(0);
    await expect(collectImportance(one.test.program, { runtime, loadWeight, ids: [], kind: 'diagonal' })).rejects.toMatchObject({
      code: 'ERR_BAD_ARGUMENT',
    });
  });
});
