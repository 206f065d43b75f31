// All cores, the same bytes: every solver on one thread and on several, with and without room to keep the weight.

import {
  castFloat,
  codecFor,
  createRuntime,
  createWorkers,
  float32Tensor,
  type HostTensor,
  type Importance,
  isLowbitError,
  type Matrix,
  memoryReader,
  memoryWriter,
  type QuantizeContext,
  type Quantizer,
  quantize,
  type RoutinePool,
  referenceBackend,
  type Workers,
} from '@lowbit/core';
import { seededFloats } from '@lowbit/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type BuiltWorker, buildWorker } from '../../../fixtures/worker.ts';
import { hqq } from './hqq.ts';
import { HqqLinear } from './linear.ts';
import type { HqqOptions } from './options.ts';

const shape: Matrix = [400, 2048]; // four tiles at least on either axis
const weight = float32Tensor(shape, seededFloats(3, shape[0] * shape[1], 0.05));
const importance: Importance = {
  kind: 'diagonal',
  moments: float32Tensor(
    [shape[1]],
    seededFloats(4, shape[1], 1).map((x) => x * x),
  ),
  rows: 1,
};

let built: BuiltWorker;
const teams = new Map<number, Workers>();
beforeAll(async () => {
  built = await buildWorker('packages/hqq/src/worker.ts');
  for (const threads of [2, 3]) teams.set(threads, createWorkers({ threads }));
});
afterAll(async () => {
  for (const workers of teams.values()) await workers[Symbol.asyncDispose]();
  await built.remove();
});

/** The quantizer with its worker as built for this test. */
const threaded = (options: HqqOptions): Quantizer => ({ ...hqq(options), worker: built.url });

interface Run {
  readonly parts: Readonly<Record<string, HostTensor>>;
  readonly calls: number;
  /** Most calls that were under way at a time. */
  readonly most: number;
}

/** Quantizes with a given memory, watching the calls that go to other threads. */
async function run(quantizer: Quantizer, of: HostTensor, context: QuantizeContext & { threads?: number }): Promise<Run> {
  const format = quantizer.format(shape, 'f16');
  const { writer, parts } = memoryWriter(codecFor(format).parts(format, shape));
  const pool = context.threads === undefined ? undefined : teams.get(context.threads)!.pool(built.url);
  let [calls, now, most] = [0, 0, 0];
  const workers: RoutinePool | undefined = pool && {
    threads: pool.threads,
    routine: (name) => async (inputs, params) => {
      calls++;
      most = Math.max(most, ++now);
      try {
        return await pool.routine(name)(inputs, params);
      } finally {
        now--;
      }
    },
  };
  await quantizer.quantize(memoryReader('w', of), format, writer, { ...context, workers });
  return { parts, calls, most };
}

const OPTIONS: readonly (HqqOptions & { weighted?: true })[] = [
  {},
  { axis: 0 },
  { bits: 8, optimize: false },
  { bits: 3, solver: 'proximal-v2' },
  { bits: 2, axis: 0, groupSize: 16, solver: { name: 'proximal-v2', scaleSearch: true, iterations: 2 } },
  { bits: 2, groupSize: 32, solver: 'proximal-slow' },
  { solver: 'least-squares', weighted: true },
  { axis: 0, solver: 'least-squares', weighted: true },
  { quantScale: true, quantZero: true, groupSize: 32 },
  { axis: 0, groupSize: null },
];

describe('the same bytes', () => {
  it.each(OPTIONS)('%o', async ({ weighted, ...options }) => {
    const quantizer = threaded(options);
    const common = weighted ? { importance } : {};
    const one = await run(quantizer, weight, { ...common, budget: Number.POSITIVE_INFINITY });
    for (const [threads, budget] of [
      [2, Number.POSITIVE_INFINITY],
      [3, Number.POSITIVE_INFINITY],
      [3, 1 << 20],
    ] as const) {
      const several = await run(quantizer, weight, { ...common, budget, threads });
      expect(several.calls).toBeGreaterThan(0);
      expect(several.most).toBe(budget > 1 << 20 ? threads : 1); // 1 MiB has room for the work on one tile
      for (const [name, part] of Object.entries(one.parts)) {
        expect(Buffer.compare(part.data, several.parts[name]!.data), `${name}, ${threads} threads, budget ${budget}`).toBe(0);
      }
    }
  });

  it.each(['bf16', 'f16'] as const)('%s kept in 16 bits, and read again in every pass', async (dtype) => {
    const narrow = castFloat(weight, dtype);
    const quantizer = threaded({});
    const kept = await run(quantizer, narrow, { budget: Number.POSITIVE_INFINITY });
    const [wide, tight] = [3 * shape[0] * shape[1], 1 << 20];
    for (const budget of [wide, tight]) {
      let read = 0;
      const format = quantizer.format(shape, 'f16');
      const { writer, parts } = memoryWriter(kept.parts);
      const reader = memoryReader('w', narrow);
      const counted: typeof reader = {
        ...reader,
        read(from, to, into, at) {
          read += to - from;
          return reader.read(from, to, into, at);
        },
      };
      await quantizer.quantize(counted, format, writer, { budget, workers: teams.get(2)!.pool(built.url) });
      for (const [name, part] of Object.entries(kept.parts)) expect(Buffer.compare(part.data, parts[name]!.data), name).toBe(0);
      const passes = read / (shape[0] * shape[1]);
      if (budget === wide) expect(passes).toBe(1);
      else expect(passes).toBeGreaterThan(3);
    }
  });
});

describe('threads of quantize', () => {
  it('are not started for small weights', async () => {
    await using workers = createWorkers({ threads: 2 });
    const small = float32Tensor([64, 256], seededFloats(1, 64 * 256, 0.05));
    const q = await quantize(small, threaded({}), { threads: workers });
    expect(workers.running).toBe(0);
    expect(q).toEqual(await quantize(small, hqq()));
    await quantize(weight, threaded({}), { threads: workers });
    expect(workers.running).toBe(2);
  });

  it('may be a number', async () => {
    expect(await quantize(weight, threaded({}), { threads: 2 })).toEqual(await quantize(weight, hqq()));
  });

  it('stop when aborted, with the reason', async () => {
    await using workers = createWorkers({ threads: 2 });
    const controller = new AbortController();
    const reason = new Error('enough');
    setTimeout(() => controller.abort(reason), 3);
    await expect(quantize(weight, threaded({ solver: 'least-squares' }), { threads: workers, signal: controller.signal })).rejects.toBe(
      reason,
    );
  });

  it('fail where the worker cannot be loaded, with what to do', async () => {
    const lost: Quantizer = { ...hqq(), worker: new URL('missing.mjs', built.url) };
    const error = await quantize(weight, lost, { threads: 2 }).catch((caught: unknown) => caught);
    expect(isLowbitError(error, 'ERR_WORKER')).toBe(true);
    expect(error).toMatchObject({ hint: expect.stringContaining('one thread') });
  });
});

it('groups longer than the columns are many are read in long ranges', async () => {
  const tall: Matrix = [2048, 400];
  const quantizer = hqq({ axis: 0, groupSize: null });
  const format = quantizer.format(tall, 'f16');
  const { writer } = memoryWriter(codecFor(format).parts(format, tall));
  const reader = memoryReader('w', float32Tensor(tall, seededFloats(3, 2048 * 400, 0.05)));
  let reads = 0;
  const counted: typeof reader = {
    ...reader,
    read(from, to, into, at) {
      reads++;
      return reader.read(from, to, into, at);
    },
  };
  await quantizer.quantize(counted, format, writer, { budget: Number.POSITIVE_INFINITY });
  expect(reads).toBe(2048); // each row once, whole
});

it('HqqLinear works with the threads it is given', async () => {
  await using runtime = await createRuntime({ backends: [referenceBackend()] });
  await using workers = createWorkers({ threads: 2 });
  using layer = await HqqLinear.create({ weight }, threaded({}), { runtime, threads: workers });
  expect(workers.running).toBe(2);
  using alone = await HqqLinear.create({ weight }, threaded({}), { runtime });
  expect(layer.stateDict()).toEqual(alone.stateDict());
});
