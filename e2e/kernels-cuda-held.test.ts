// On the GPU the weights of a layer are brought once, however many passes HQQ's solver and double quantization take: copies of the fake driver are counted, to the byte.
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { fp4, nf4 } from '@lowbit/bnb';
import {
  type Backend,
  codecFor,
  createRuntime,
  type HostTensor,
  hostTensor,
  memoryReader,
  memoryWriter,
  type Quantizer,
  quantize,
  type Routine,
  type Runtime,
  type WeightReader,
  writeFloat32,
} from '@lowbit/core';
import { hqq } from '@lowbit/hqq';
import { openCheckpoint, quantizeCheckpoint } from '@lowbit/hub';
import { cpu } from '@lowbit/kernels-cpu';
import { cuda } from '@lowbit/kernels-cuda';
import { llama } from '@lowbit/models';
import { seeded } from '@lowbit/testing';
import { afterAll, describe, expect, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../fixtures/fake-cuda.ts';
import { needs } from '../fixtures/needs.ts';

const here = (context: { skip(reason: string): void }): void =>
  needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
const native = await cpu().probe();
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

async function counted(weight: HostTensor, quantizer: Quantizer, settings: Parameters<typeof pretend>[0] = {}): Promise<Brought> {
  const [copies, log] = [join(dir, `copies-${++runs}`), join(dir, `log-${runs}`)];
  const expected = await quantize(weight, quantizer, { metaDtype: 'f16' });
  pretend({ copies, log, ...settings });
  await using runtime = await createRuntime({ backends: [cuda({ driver: FAKE_DRIVER })] });
  await runtime.backend('cuda');
  expect(await quantize(weight, quantizer, { metaDtype: 'f16', runtime })).toEqual(expected);
  const lines = readFileSync(copies, 'utf8').trim().split('\n');
  const of = (way: string): number[] => lines.filter((line) => line.startsWith(way)).map((line) => Number(line.split(' ')[1]));
  const launches: Record<string, number> = {};
  for (const line of readFileSync(log, 'utf8').trim().split('\n')) {
    const kernel = line.split(' ')[0]!;
    launches[kernel] = (launches[kernel] ?? 0) + 1;
  }
  return { up: of('up'), down: of('down'), launches };
}

/** A runtime's routines, `around` each call of them and of what holds weights for them. */
function watched(
  runtime: Pick<Runtime, 'routine'>,
  around: (found: Routine, ...given: Parameters<Routine>) => ReturnType<Routine>,
): Pick<Runtime, 'routine'> {
  const watch =
    (found: Routine): Routine =>
    (inputs, params) =>
      around(found, inputs, params);
  const { held } = runtime.routine('hqq.min-max') as Routine & { readonly held: Routine };
  const holder = watch(held);
  return {
    routine: (name) => {
      const found = runtime.routine(name) as (Routine & { readonly held?: Routine }) | undefined;
      return found && Object.assign(watch(found), found.held === held ? { held: holder } : {});
    },
  };
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

describe('quantizing on the GPU', () => {
  it.for([
    ['the default solver, axis 1', { axis: 1 }],
    ['the default solver, axis 0', { axis: 0 }],
  ] as const)('brings each tile once: %s', async ([, { axis }], context) => {
    here(context);
    const weight = weightOf(512, 1024); // two tiles of 4,096 groups
    const groups = 4096;
    const { up, down, launches } = await counted(weight, hqq({ bits: 4, groupSize: GROUP, axis }));
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
    const { up, down, launches } = await counted(
      weight,
      hqq({ bits: 3, groupSize: GROUP, axis: 0, solver: { name: 'least-squares', alternations: 1 } }),
    );
    expect(launches.hqq_least_squares).toBe(2);
    expect(sum(up)).toBe(weight.data.length + 2 * (8 * 4096 + 4 * 11)); // scale and zero as stored; lanes of ten codes
    expect(sum(down)).toBe(2 * (8 * 4096 + 24 + 4 * 7 * 4096)); // 64 rows in words of ten
  });

  it('goes the other way where the GPU has no room for a layer: the same bytes', async (context) => {
    here(context);
    const weight = weightOf(128, 4096);
    // The first memory that is asked for is the layer's.
    const { up } = await counted(weight, hqq({ bits: 4, groupSize: GROUP }), { fail: 'cuMemAlloc/2/1' });
    expect(up.filter((bytes) => bytes === 4096 * GROUP * 2).length).toBeGreaterThanOrEqual(2 * 3);
  });

  it.for([
    ['NF4', nf4({ doubleQuant: true }), 0],
    ['FP4, scales by search', fp4({ doubleQuant: true, scale: 'search' }), 60 + 64],
  ] as const)('brings each weight once for both passes of double quantization: %s', async ([, quantizer, search], context) => {
    here(context);
    const weight = weightOf(512, 1024); // two pieces of 4,096 blocks
    const { up, down } = await counted(weight, quantizer);
    expect(up.filter((bytes) => bytes === 2 ** 19)).toHaveLength(2);
    // Besides, for each piece: bounds, codes and values of cells, what nested scales are made of; bounds and values for the search.
    const tables = 60 + 16 + 64 + 4 * 32 + 1024 + 1020;
    expect(sum(up)).toBe(weight.data.length + 2 * (tables + search));
    // Magnitudes; then codes, and of each block its magnitude, errors, code and scale.
    expect(sum(down)).toBe(4 * 8192 + 512 * 512 + (4 + 24 + 1 + 4) * 8192);
  });

  it('reads pieces that are there once, and brings them twice where there is no room', async (context) => {
    here(context);
    const weight = weightOf(512, 1024);
    const quantizer = nf4({ doubleQuant: true });
    const { up } = await counted(weight, quantizer, { fail: 'cuMemAlloc/2/1' });
    expect(up.filter((bytes) => bytes === 2 ** 19)).toHaveLength(4);
    pretend({});
    await using runtime = await createRuntime({ backends: [cuda({ driver: FAKE_DRIVER })] });
    await runtime.backend('cuda');
    const reader = memoryReader('w', weight);
    const reads: number[] = [];
    const counting: WeightReader = {
      ...reader,
      readStored(from, to) {
        reads.push(to - from);
        return reader.readStored!(from, to);
      },
    };
    const format = quantizer.format([512, 1024], 'f32');
    const { writer } = memoryWriter(codecFor(format).parts(format, [512, 1024]));
    await quantizer.quantize(counting, format, writer, { budget: 16 << 20, routine: (name) => runtime.routine(name) });
    expect(reads).toEqual([2 ** 18, 2 ** 18]);
  });

  it.for([
    [['cpu', 'cuda'], false],
    [['cuda', 'cpu'], true],
  ] as const)('is done where the order of backends puts it: %j', async ([order, onTheGpu], context) => {
    here(context);
    needs(context, 'kernels-cpu', native.ok, native.ok ? '' : native.reason);
    const log = join(dir, `order-${order.join('-')}`);
    pretend({ log });
    const providers = { cpu: cpu({ threads: 1 }), cuda: cuda({ driver: FAKE_DRIVER }) };
    await using runtime = await createRuntime({ backends: order.map((name) => providers[name]) });
    for (const name of order) await runtime.backend(name); // routines are those of opened backends
    const weight = weightOf(512, 1024);
    for (const [quantizer, kernel] of [
      [hqq({ bits: 4 }), 'hqq_'],
      [nf4({ doubleQuant: true }), 'bnb_'],
    ] as const) {
      const expected = await quantize(weight, quantizer, { metaDtype: 'f16' });
      expect(await quantize(weight, quantizer, { metaDtype: 'f16', runtime })).toEqual(expected);
      expect(existsSync(log) && readFileSync(log, 'utf8').includes(kernel), kernel).toBe(onTheGpu);
    }
  });

  it.for([1, 4, 9])('stopped in call %i with two linears under way, leaves nothing of them', async (calls, context) => {
    here(context);
    const log = join(dir, `stopped-${calls}`);
    pretend({ log });
    await using runtime = await createRuntime({ backends: [cuda({ driver: FAKE_DRIVER })] });
    const backend: Backend = await runtime.backend('cuda');
    const controller = new AbortController();
    const under = { now: 0, calls: 0 };
    const holding = new Set<number>();
    // What the quantizers call is counted: calls under way, and layers that hold room.
    const stopping = watched(runtime, async (found, inputs, params) => {
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
    });
    await using source = await openCheckpoint(fileURLToPath(new URL('../examples/tiny-llama', import.meta.url)));
    const options = { quantizer: hqq({ bits: 4 }), adapters: [llama], concurrency: 2, maxMemory: 256 << 20 };
    const out = join(dir, `out-${calls}`);
    const run = quantizeCheckpoint(source, { ...options, out, runtime: stopping, signal: controller.signal });
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
  });

  it.for([
    ['hqq', 1, hqq({ bits: 4 })],
    ['hqq', 4, hqq({ bits: 4 })],
    ['hqq', 7, hqq({ bits: 4 })],
    ['nf4', 2, nf4({ doubleQuant: true })],
    ['nf4', 6, nf4({ doubleQuant: true })],
  ] as const)('stopped in a call, gives the room of the layer back: %s, %d', async ([, calls, quantizer], context) => {
    here(context);
    pretend({});
    await using runtime = await createRuntime({ backends: [cuda({ driver: FAKE_DRIVER })] });
    const backend: Backend = await runtime.backend('cuda');
    const weight = weightOf(1024, 1024);
    const controller = new AbortController();
    let left = calls;
    const stopping = watched(runtime, async (found, inputs, params) => {
      if (params.held !== undefined && --left === 0) controller.abort(new Error('stopped'));
      return found(inputs, params);
    });
    await expect(quantize(weight, quantizer, { runtime: stopping, signal: controller.signal })).rejects.toThrow('stopped');
    expect(left).toBeLessThanOrEqual(0);
    // Only what is kept for layers to come: no layer holds any of it, and a weight gets it all.
    const format = { kind: 'dense', dtype: 'f32' } as const;
    const linear = await backend.prepare({ format, shape: [1, 4], parts: { weight: hostTensor('f32', [1, 4], new Float32Array(4)) } });
    expect(backend.allocated()).toBe(linear.bytes);
    linear[Symbol.dispose]();
  });
});
