// What `measure` refuses before native code plans with it: e2e/estimate.test.ts compares what it says with what steps take.
import { ProgramBuilder } from '@lowbit/program';
import { expect, it } from 'vitest';
import { needs } from '../../../fixtures/needs.ts';
import { cpu } from './cpu.ts';

const probe = await cpu().probe();

it('refuses linears of another program and sizes that no step has', async (context) => {
  needs(context, 'kernels-cpu', probe.ok, probe.ok ? '' : probe.reason);
  const b = new ProgramBuilder({ layers: 1 });
  const linear = (name: string, rows: number, use: 'linear' | 'embedding' = 'linear'): number => b.addLinear(name, [rows, 32], { use });
  const x = b.embed(linear('embed', 64, 'embedding'));
  b.layer = 0;
  const [q, k, v] = ['q', 'k', 'v'].map((name) => b.linear(x, linear(name, 32))) as [number, number, number];
  const cache = b.addCache({ heads: 1, keyDim: 32, valueDim: 32 });
  b.output('out', b.select(b.attend(q, { k, v, cache, heads: 1, kvHeads: 1, keyDim: 32, valueDim: 32, scale: 0.3 })));
  const program = b.build();
  await using backend = await cpu({ threads: 1 }).open();
  const measure = backend.measure!.bind(backend);
  const linears = program.linears.map(({ shape, use }) => ({ format: { kind: 'dense', dtype: 'f32' }, shape, use }) as const);
  const size = { contextLength: 128, sequences: 1, tokens: 16, outputs: 1, encoder: 0 };
  expect(measure(program, linears, size)).toMatchObject({ cache: 128 * 2 * 32 * 4 });
  expect(measure(program, linears, { ...size, tokens: 128, outputs: 128, sequences: 3 }).cache).toBe(3 * 128 * 2 * 32 * 4);
  const bad = expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' });
  for (const others of [[], linears.slice(1), [...linears, ...linears], linears.map((one) => ({ ...one, shape: [32, 32] as const }))]) {
    expect(() => measure(program, others, size), `${others.length}`).toThrow(bad);
  }
  for (const change of [
    { tokens: 129 },
    { outputs: 17 },
    { sequences: -1 },
    { tokens: 1.5 },
    { encoder: Number.NaN },
    { contextLength: 2 ** 40, tokens: 2 ** 32 },
    { sequences: 2 ** 30, tokens: 0, outputs: 0 },
    { encoder: 2 ** 30 },
    { contextLength: 2 ** 53 },
  ]) {
    expect(() => measure(program, linears, { ...size, ...change }), JSON.stringify(change)).toThrow(bad);
  }
});
