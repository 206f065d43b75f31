// HQQ on the GPU brings the weights of a layer once, however many passes the solver takes: copies of the fake driver are counted, to the byte.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Backend, createRuntime, type HostTensor, hostTensor, quantize, writeFloat32 } from '@lowbit/core';
import { type HqqOptions, hqq } from '@lowbit/hqq';
import { openCheckpoint, quantizeCheckpoint } from '@lowbit/hub';
import { cuda } from '@lowbit/kernels-cuda';
import { llama } from '@lowbit/models';
import { seeded } from '@lowbit/testing';
import { afterAll, describe, expect, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../fixtures/fake-cuda.ts';
import { needs } from '../fixtures/needs.ts';

const here = (context: { skip(reason: string): void }): void =>
  needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
const dir = mkdtempSync(join(tmpdir(), 'lowbit-cuda-held-'));
afterAll(() => rmSync(dir, { recursive: true }));

const GROUP = 64;

/** Bell-shaped weights with a few large ones, so that the shrinkage acts and steps differ. */
function weightOf(out: number, inp: number): HostTensor {
  const next = seeded(out * inp);
  const values = Float32Array.from({ length: out * inp }, (_, i) => (next() + next() + next() - 1.5) * (i % 331 === 0 ? 6 : 0.3));
  return { dtype: 'bf16', shape: [out, inp], data: writeFloat32('bf16', values) };
}

interface Brought {
  readonly up: readonly number[];
  readonly down: readonly number[];
  /** Launches of each kernel. */
  readonly launches: Readonly<Record<string, number>>;
}

let runs = 0;

async function counted(weight: HostTensor, options: HqqOptions, settings: Parameters<typeof pretend>[0] = {}): Promise<Brought> {
  const [copies, log] = [join(dir, `copies-${++runs}`), join(dir, `log-${runs}`)];
  const expected = await quantize(weight, hqq(options), { metaDtype: 'f16' });
  pretend({ copies, log, ...settings });
  await using runtime = await createRuntime({ backends: [cuda({ driver: FAKE_DRIVER })] });
  await runtime.backend('cuda');
  expect(await quantize(weight, hqq(options), { metaDtype: 'f16', runtime })).toEqual(expected);
  const lines = readFileSync(copies, 'utf8').trim().split('\n');
  const of = (way: string): number[] => lines.filter((line) => line.startsWith(way)).map((line) => Number(line.split(' ')[1]));
  const launches: Record<string, number> = {};
  for (const line of readFileSync(log, 'utf8').trim().split('\n')) {
    const kernel = line.split(' ')[0]!;
    launches[kernel] = (launches[kernel] ?? 0) + 1;
  }
  return { up: of('up'), down: of('down'), launches };
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

describe('HQQ on the GPU', () => {
  it.for([
    ['the default solver, axis 1', { axis: 1 }],
    ['the default solver, axis 0', { axis: 0 }],
  ] as const)('brings each tile once: %s', async ([, { axis }], context) => {
    here(context);
    const weight = weightOf(512, 1024); // two tiles of 4,096 groups
    const groups = 4096;
    const { up, down, launches } = await counted(weight, { bits: 4, groupSize: GROUP, axis });
    const { hqq_min_max: ranges, hqq_proximal: passes, hqq_finish: ends } = launches;
    expect([ranges, ends]).toEqual([2, 2]);
    expect(passes).toBeGreaterThanOrEqual(2); // of five steps each
    expect(up.filter((bytes) => bytes === groups * GROUP * 2)).toHaveLength(2);
    // Besides: of each pass p, beta and its growth, the grid, and who has settled; of the end the grid as stored and as solved, and where lanes begin.
    const pass = 8 * (2 + 5) + 9 * groups;
    const end = 16 * groups + 4 * 3;
    expect(sum(up)).toBe(weight.data.length + passes! * pass + 2 * end);
    expect(sum(down)).toBe(2 * 8 * groups + passes! * (5 * 4 * groups + groups + 8 * 3 * 5) + weight.data.length / 4 + 2 * 24);
  });

  it('brings each tile once: least squares', async (context) => {
    here(context);
    const weight = weightOf(512, 1024);
    const { up, down, launches } = await counted(weight, {
      bits: 3,
      groupSize: GROUP,
      axis: 0,
      solver: { name: 'least-squares', alternations: 1 },
    });
    expect(launches.hqq_least_squares).toBe(2);
    expect(sum(up)).toBe(weight.data.length + 2 * (8 * 4096 + 4 * 11)); // scale and zero as stored; lanes of ten codes
    expect(sum(down)).toBe(2 * (8 * 4096 + 24 + 4 * 7 * 4096)); // 64 rows in words of ten
  });

  it('goes the other way where the GPU has no room for a layer: the same bytes', async (context) => {
    here(context);
    const weight = weightOf(128, 4096);
    // The first memory that is asked for is the layer's.
    const { up } = await counted(weight, { bits: 4, groupSize: GROUP }, { fail: 'cuMemAlloc/2/1' });
    expect(up.filter((bytes) => bytes === 4096 * GROUP * 2).length).toBeGreaterThanOrEqual(2 * 3);
  });

  it.for([1, 4, 9])(
    'stopped in call %i with two linears under way, leaves nothing of them',
    { timeout: 120_000 },
    async (calls, context) => {
      here(context);
      const log = join(dir, `stopped-${calls}`);
      pretend({ log });
      await using runtime = await createRuntime({ backends: [cuda({ driver: FAKE_DRIVER })] });
      const backend: Backend = await runtime.backend('cuda');
      const controller = new AbortController();
      const under = { now: 0, calls: 0 };
      const holding = new Set<number>();
      // What the quantizers call is counted: calls under way, and layers that hold room.
      const routine = (name: string) => {
        const found = runtime.routine(name);
        if (!found) return undefined;
        return async (...[inputs, params]: Parameters<typeof found>) => {
          under.now++;
          if (holding.size === 2 && params.held !== undefined && ++under.calls === calls) controller.abort(new Error('stopped'));
          try {
            const outputs = await found(inputs, params);
            if (params.hold) holding.add(new Float64Array(outputs[0]!.data.buffer)[0]!);
            if (typeof params.release === 'number') holding.delete(params.release);
            return outputs;
          } finally {
            under.now--;
          }
        };
      };
      await using source = await openCheckpoint(fileURLToPath(new URL('../examples/tiny-llama', import.meta.url)));
      const options = { quantizer: hqq({ bits: 4 }), adapters: [llama], concurrency: 2, maxMemory: 256 << 20 };
      const out = join(dir, `out-${calls}`);
      const run = quantizeCheckpoint(source, { ...options, out, runtime: { routine }, signal: controller.signal });
      await expect(run).rejects.toThrow('stopped');
      expect([under.now, holding.size]).toEqual([0, 0]);
      const launched = readFileSync(log, 'utf8').length;
      // A weight is given all the room that is kept, and nothing is launched but what brings it there.
      const linear = await backend.prepare({
        format: { kind: 'dense', dtype: 'f32' },
        shape: [1, 4],
        parts: { weight: hostTensor('f32', [1, 4], new Float32Array(4)) },
      });
      expect(backend.allocated()).toBe(linear.bytes);
      linear[Symbol.dispose]();
      expect(backend.allocated()).toBe(0);
      expect(readFileSync(log, 'utf8').slice(launched)).not.toContain('hqq');
    },
  );

  it.for([1, 4, 7])('stopped in a call, gives the room of the layer back (%i)', async (calls, context) => {
    here(context);
    pretend({});
    await using runtime = await createRuntime({ backends: [cuda({ driver: FAKE_DRIVER })] });
    const backend: Backend = await runtime.backend('cuda');
    const weight = weightOf(1024, 1024);
    const controller = new AbortController();
    let left = calls;
    const routine = (name: string) => {
      const found = runtime.routine(name);
      return (
        found &&
        (async (...given: Parameters<typeof found>) => {
          if (given[1].held !== undefined && --left === 0) controller.abort(new Error('stopped'));
          return found(...given);
        })
      );
    };
    await expect(quantize(weight, hqq({ bits: 4 }), { runtime: { routine }, signal: controller.signal })).rejects.toThrow('stopped');
    // Only what is kept for layers to come: no layer holds any of it, and a weight gets it all.
    const format = { kind: 'dense', dtype: 'f32' } as const;
    const linear = await backend.prepare({ format, shape: [1, 4], parts: { weight: hostTensor('f32', [1, 4], new Float32Array(4)) } });
    expect(backend.allocated()).toBe(linear.bytes);
    linear[Symbol.dispose]();
  });
});
