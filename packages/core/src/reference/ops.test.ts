// Every operation against a formula written here from its definition, on numbers small enough to follow.

import { ProgramBuilder } from '@lowbit/program';
import { seededFloats, seededTensor } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { toFloat32 } from '../dtype.ts';
import type { StepSequence } from '../spec/backend.ts';
import type { Activation } from '../spec/program.ts';
import type { HostTensor } from '../spec/tensor.ts';
import { float32Tensor, hostTensor } from '../tensor.ts';
import { referenceBackend } from './index.ts';

type Rows = number[][];

const tensor = (rows: Rows): HostTensor => float32Tensor([rows.length, rows[0]!.length], rows.flat());
const rowsOf = (t: HostTensor): Rows => {
  const values = [...(t.dtype === 'i32' ? new Int32Array(t.data.buffer) : toFloat32(t))];
  return Array.from({ length: t.shape[0]! }, (_, i) => values.slice(i * t.shape[1]!, (i + 1) * t.shape[1]!));
};
const random = (seed: number, rows: number, width: number): Rows => rowsOf(seededTensor(seed, [rows, width], 2));

/** Builds a program with dense weights, runs steps on one new sequence, and gives the outputs of the last. */
async function run(
  build: (b: ProgramBuilder, weight: (rows: Rows, bias?: number[]) => number) => void,
  ...steps: Omit<StepSequence, 'id'>[]
): Promise<Record<string, Rows>> {
  await using backend = await referenceBackend().open();
  const b = new ProgramBuilder({ layers: 1 });
  const weights: Rows[] = [];
  build(b, (rows, bias) => {
    weights.push(rows);
    return b.addLinear(`w${weights.length}`, [rows.length, rows[0]!.length], {
      use: 'both',
      bias: bias && b.addConstant(float32Tensor([bias.length], bias)),
    });
  });
  const program = b.build();
  const linears = await Promise.all(
    program.linears.map(({ shape, use, bias }, i) => {
      const format = { kind: 'dense', dtype: 'f32' } as const;
      const weight = { format, shape, parts: { weight: tensor(weights[i]!) } };
      return backend.prepare(weight, { use, bias: bias === undefined ? undefined : program.constants[bias] });
    }),
  );
  const executable = await backend.compile(program, linears, { contextLength: 64 });
  const id = executable.open();
  let last: Record<string, Rows> = {};
  for (const step of steps) {
    const outputs = await executable.step([{ id, ...step }]);
    last = Object.fromEntries(Object.entries(outputs).map(([name, out]) => [name, rowsOf(out)]));
  }
  return last;
}

const count = (n: number): Uint32Array => Uint32Array.from({ length: n }, (_, i) => i);
/** A step whose rows `x` are given; all are wanted. */
const given = (x: Rows): Omit<StepSequence, 'id'> => ({ tokens: count(x.length), wanted: count(x.length), inputs: { x: tensor(x) } });

/** One operation on rows `x`. */
async function onRows(x: Rows, build: (b: ProgramBuilder, x: number) => number): Promise<Rows> {
  const { out } = await run((b) => b.output('out', build(b, b.input('x', { width: x[0]!.length }))), given(x));
  return out!;
}

function expectClose(got: Rows, expected: Rows, tolerance = 2e-7): void {
  expect(got.map((row) => row.length)).toEqual(expected.map((row) => row.length));
  for (const [i, row] of expected.entries()) {
    for (const [j, value] of row.entries())
      expect(Math.abs(got[i]![j]! - value), `row ${i}, element ${j}: ${got[i]![j]} for ${value}`).toBeLessThanOrEqual(
        tolerance * Math.max(1, Math.abs(value)),
      );
  }
}

describe('elementwise', () => {
  // Python's math module, 9 digits
  const points = [-3, -0.5, 0, 0.5, 2];
  const table: Record<Activation, number[]> = {
    silu: [-0.14227762, -0.188770334, 0, 0.311229666, 1.76159416],
    gelu: [-0.00404969409, -0.154268769, 0, 0.345731231, 1.95449974],
    gelu_tanh: [-0.00363739208, -0.15428599, 0, 0.34571401, 1.95459769],
    quick_gelu: [-0.0180713097, -0.149611563, 0, 0.350388437, 1.93565862],
    relu: [0, 0, 0, 0.5, 2],
    relu2: [0, 0, 0, 0.25, 4],
    sigmoid: [0.0474258732, 0.377540669, 0.5, 0.622459331, 0.880797078],
    tanh: [-0.995054754, -0.462117157, 0, 0.462117157, 0.96402758],
    identity: points,
  };
  it.each(Object.keys(table) as Activation[])('%s', async (kind) => {
    expectClose(await onRows([points], (b, x) => b.activate(x, kind)), [table[kind]]);
  });

  it('activations keep NaN and do not overflow', async () => {
    for (const kind of Object.keys(table) as Activation[]) {
      const [[nan, low, high]] = (await onRows([[Number.NaN, -1e4, 1e4]], (b, x) => b.activate(x, kind))) as [number[]];
      expect(nan).toBeNaN();
      expect(Number.isFinite(low) && Number.isFinite(high)).toBe(true);
    }
  });

  it('gate, add, scale, softcap, slice', async () => {
    const x = [
      [1, 2, 3, 4, 5, 6],
      [-1, 0, 1, 2, 3, 4],
    ];
    const relu = (b: ProgramBuilder, x: number): number =>
      b.gate(b.slice(x, { offset: 0, width: 3 }), b.slice(x, { offset: 3, width: 3 }), 'relu');
    expect(await onRows(x, relu)).toEqual([
      [4, 10, 18],
      [0, 0, 4],
    ]);
    expect(await onRows(x, (b, x) => b.gate(b.slice(x, { offset: 1, width: 1 }), x, 'identity'))).toEqual([
      [2, 4, 6, 8, 10, 12],
      [-0, 0, 0, 0, 0, 0],
    ]);
    expect(await onRows(x, (b, x) => b.add(x, x, -0.5))).toEqual(x.map((row) => row.map((value) => value / 2)));
    expect(await onRows(x, (b, x) => b.scale(x, 3))).toEqual(x.map((row) => row.map((value) => value * 3)));
    expectClose(
      await onRows(x, (b, x) => b.softcap(x, 2)),
      x.map((row) => row.map((value) => 2 * Math.tanh(value / 2))),
    );
    expect(await onRows(x, (b, x) => b.slice(x, { groups: 2, offset: 1, width: 2 }))).toEqual([
      [2, 3, 5, 6],
      [0, 1, 3, 4],
    ]);
  });
});

describe('norm', () => {
  const x = random(1, 3, 12);
  const weight = [...seededFloats(2, 12)];
  const bias = [...seededFloats(3, 12)];
  const mean = (values: number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

  it('rms, by hand', async () => {
    // mean square of (3, 4) is 12.5
    expectClose(await onRows([[3, 4]], (b, x) => b.norm(x, { kind: 'rms', eps: 0 })), [[3 / Math.sqrt(12.5), 4 / Math.sqrt(12.5)]]);
    expectClose(await onRows([[3, 4]], (b, x) => b.norm(x, { kind: 'rms', eps: 12.5 })), [[0.6, 0.8]]);
  });

  it.each([0, 1] as const)('rms with weight + %i', async (weightOffset) => {
    const got = await onRows(x, (b, x) =>
      b.norm(x, { kind: 'rms', eps: 0.1, weight: b.addConstant(float32Tensor([12], weight)), weightOffset }),
    );
    expectClose(
      got,
      x.map((row) => row.map((value, i) => (value / Math.sqrt(mean(row.map((v) => v * v)) + 0.1)) * (weight[i]! + weightOffset))),
    );
  });

  it('layer with weight and bias', async () => {
    const got = await onRows(x, (b, x) =>
      b.norm(x, {
        kind: 'layer',
        eps: 0.1,
        weight: b.addConstant(float32Tensor([12], weight)),
        bias: b.addConstant(float32Tensor([12], bias)),
      }),
    );
    const expected = x.map((row) => {
      const m = mean(row);
      const variance = mean(row.map((v) => (v - m) ** 2));
      return row.map((value, i) => ((value - m) / Math.sqrt(variance + 0.1)) * weight[i]! + bias[i]!);
    });
    expectClose(got, expected);
  });

  it.each([4, 12])('in groups, with %i weights', async (size) => {
    const w = weight.slice(0, size);
    const got = await onRows(x, (b, x) => b.norm(x, { kind: 'rms', eps: 0.1, groups: 3, weight: b.addConstant(float32Tensor([size], w)) }));
    const expected = x.map((row) =>
      [0, 4, 8].flatMap((at) => {
        const part = row.slice(at, at + 4);
        const root = Math.sqrt(mean(part.map((v) => v * v)) + 0.1);
        return part.map((value, i) => (value / root) * w[size === 4 ? i : at + i]!);
      }),
    );
    expectClose(got, expected);
  });

  it('takes bf16 constants', async () => {
    const one = hostTensor('bf16', [2], Uint16Array.of(0x4000, 0x3f80)); // 2, 1
    expectClose(await onRows([[3, 4]], (b, x) => b.norm(x, { kind: 'rms', eps: 0, weight: b.addConstant(one) })), [
      [6 / Math.sqrt(12.5), 4 / Math.sqrt(12.5)],
    ]);
  });
});

describe('embedding, input, inject, select', () => {
  const table = random(4, 5, 3);

  it('looks up and scales', async () => {
    const { out } = await run((b, weight) => b.output('out', b.embed(weight(table), { scale: 2 })), { tokens: Uint32Array.of(4, 0, 4) });
    expect(out).toEqual([4, 0, 4].map((id) => table[id]!.map((value) => Math.fround(2 * value))));
  });

  it('adds positions that go on from step to step', async () => {
    const positions = random(5, 9, 3);
    const x = random(6, 4, 3);
    const { out } = await run(
      (b) => b.output('out', b.positionEmbed(b.input('x', { width: 3 }), b.addConstant(tensor(positions)), { offset: 2 })),
      given(x.slice(0, 3)),
      given(x.slice(3)),
    );
    expectClose(out!, [x[3]!.map((value, i) => value + positions[3 + 2]![i]!)]);
  });

  it('injects rows and selects wanted ones', async () => {
    const x = random(7, 4, 3);
    const rows = random(8, 2, 3);
    const step = { ...given(x), wanted: Uint32Array.of(0, 1, 3), injections: { image: { at: Uint32Array.of(1, 3), rows: tensor(rows) } } };
    const { out } = await run((b) => b.output('out', b.select(b.inject(b.input('x', { width: 3 }), 'image'))), step);
    expect(out).toEqual([x[0], rows[0], rows[1]]);
  });

  it('multiplies by the transposed weight and adds the bias', async () => {
    const w = random(9, 6, 3);
    const x = random(10, 5, 3);
    const bias = [1, 2, 3, 4, 5, 6];
    const { out } = await run((b, weight) => b.output('out', b.linear(b.input('x', { width: 3 }), weight(w, bias))), given(x));
    expectClose(
      out!,
      x.map((row) => w.map((weights, i) => weights.reduce((sum, value, k) => sum + value * row[k]!, 0) + bias[i]!)),
    );
  });
});

describe('routing', () => {
  it('chooses, scores and combines by hand', async () => {
    const x = [[Math.log(1), Math.log(2), Math.log(5), Math.log(2)]]; // softmax: 0.1, 0.2, 0.5, 0.2; experts 1 and 3 tie
    const { ids, weights } = await run((b) => {
      const chosen = b.route(b.input('x', { width: 4 }), { topK: 2, scoring: 'softmax', normalize: false, scale: 10 });
      b.output('ids', chosen.ids);
      b.output('weights', chosen.weights);
    }, given(x));
    expect(ids).toEqual([[2, 1]]);
    expectClose(weights!, [[5, 2]], 1e-6);
    const normalized = await onRows(x, (b, x) => b.route(x, { topK: 2, scoring: 'softmax', normalize: true }).weights);
    expectClose(normalized, [[5 / 7, 2 / 7]], 1e-6);
    const sigmoid = await onRows(x, (b, x) => b.route(x, { topK: 2, scoring: 'sigmoid', normalize: false }).weights);
    expectClose(sigmoid, [[5 / 6, 2 / 3]], 1e-6);
  });

  it('experts get their rows', async () => {
    const x = random(11, 5, 3);
    const logits = random(12, 5, 4);
    const up = Array.from({ length: 4 }, (_, e) => random(20 + e, 6, 3));
    const down = Array.from({ length: 4 }, (_, e) => random(30 + e, 3, 6));
    const joined = x.map((row, t) => [...row, ...logits[t]!]);
    const { out } = await run((b, weight) => {
      const rows = b.input('x', { width: 7 });
      const { ids, weights } = b.route(b.slice(rows, { offset: 3, width: 4 }), { topK: 2, scoring: 'softmax', normalize: true });
      const h = b.expertLinear(
        b.slice(rows, { offset: 0, width: 3 }),
        ids,
        up.map((w) => weight(w)),
      );
      b.output(
        'out',
        b.combine(
          b.expertLinear(
            b.activate(h, 'relu'),
            ids,
            down.map((w) => weight(w)),
          ),
          weights,
        ),
      );
    }, given(joined));
    const times = (w: Rows, v: number[]): number[] => w.map((row) => row.reduce((sum, value, k) => sum + value * v[k]!, 0));
    const expected = x.map((row, t) => {
      const [a, b] = [0, 1, 2, 3].sort((i, j) => logits[t]![j]! - logits[t]![i]!);
      const [ea, eb] = [Math.exp(logits[t]![a!]!), Math.exp(logits[t]![b!]!)];
      const mlp = (e: number): number[] =>
        times(
          down[e]!,
          times(up[e]!, row).map((value) => Math.max(0, value)),
        );
      return mlp(a!).map((value, i) => (value * ea + mlp(b!)[i]! * eb) / (ea + eb));
    });
    expectClose(out!, expected, 1e-6);
  });
});
