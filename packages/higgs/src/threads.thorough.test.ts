// All cores, any memory, the same bytes: on one thread and on several, with room for everything and for little.

import {
  codecFor,
  createWorkers,
  float32Tensor,
  type HostTensor,
  type Matrix,
  memoryReader,
  memoryWriter,
  type Quantizer,
  quantize,
  type RoutinePool,
  type WeightError,
  type Workers,
} from '@lowbit/core';
import { seededFloats } from '@lowbit/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type BuiltWorker, buildWorker } from '../../../fixtures/worker.ts';
import { higgs } from './higgs.ts';
import type { HiggsOptions } from './options.ts';

let built: BuiltWorker;
const teams = new Map<number, Workers>();
beforeAll(async () => {
  built = await buildWorker('packages/higgs/src/worker.ts');
  for (const threads of [2, 3]) teams.set(threads, createWorkers({ threads }));
});
afterAll(async () => {
  for (const workers of teams.values()) await workers[Symbol.asyncDispose]();
  await built.remove();
});

interface Run {
  readonly parts: Readonly<Record<string, HostTensor>>;
  readonly error: WeightError;
  readonly calls: number;
  /** Most calls that were under way at a time. */
  readonly most: number;
}

async function run(quantizer: Quantizer, weight: HostTensor, budget: number, threads?: number): Promise<Run> {
  const shape = weight.shape as Matrix;
  const format = quantizer.format(shape, 'bf16');
  const { writer, parts } = memoryWriter(codecFor(format).parts(format, shape));
  const pool = threads === undefined ? undefined : teams.get(threads)!.pool(built.url);
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
  const error = await quantizer.quantize(memoryReader('w', weight), format, writer, { budget, workers });
  return { parts, error, calls, most };
}

const CASES: readonly (readonly [HiggsOptions, Matrix])[] = [
  [{}, [640, 1100]], // FLUTE, a band of one tile in several runs
  [{ bits: 3 }, [1024, 1024]], // two planes of words
  [{ bits: 2, p: 1, tile: 64 }, [1536, 512]],
  [{ packing: 'portable' }, [300, 2100]],
  [{ hadamardSize: 32768, groupSize: 32768, p: 1 }, [33, 40_000]],
  [{ hadamardSize: 64, groupSize: 64 }, [2, 700_000]], // rows of several runs
];

describe.each(CASES.map(([options, shape]) => [`${JSON.stringify(options)} [${shape.join(', ')}]`, options, shape] as const))(
  '%s',
  (_, options, shape) => {
    const weight = float32Tensor(shape, seededFloats(3, shape[0] * shape[1], 0.05));

    it('has the same bytes whatever the threads and the memory', async () => {
      const one = await run(higgs(options), weight, Number.POSITIVE_INFINITY);
      for (const [budget, threads] of [
        [2 ** 20, undefined],
        [Number.POSITIVE_INFINITY, 2],
        [6 << 20, 2],
        [Number.POSITIVE_INFINITY, 3],
      ] as const) {
        const other = await run(higgs(options), weight, budget, threads);
        for (const [part, { data }] of Object.entries(one.parts)) expect(Buffer.compare(data, other.parts[part]!.data), part).toBe(0);
        expect(other.error).toEqual(one.error);
        if (threads !== undefined) expect(other.calls).toBeGreaterThan(1);
        if (threads !== undefined && budget === Number.POSITIVE_INFINITY) expect(other.most).toBe(threads);
      }
    });
  },
);

describe('memory', () => {
  it('has to hold the rows that are packed at once', async () => {
    const weight = float32Tensor([512, 40_960], new Float32Array(512 * 40_960).fill(1));
    await expect(run(higgs({ bits: 3, p: 1 }), weight, 8 << 20)).rejects.toMatchObject({
      code: 'ERR_LIMIT',
      hint: expect.stringContaining('portable'),
      details: { tensor: 'w', budget: 8 << 20 },
    });
    await run(higgs({ bits: 3, p: 1, packing: 'portable' }), weight, 8 << 20);
  });
});

describe('calls', () => {
  const weight = float32Tensor([640, 1024], seededFloats(5, 640 * 1024, 1));
  const threaded = (): Quantizer => ({ ...higgs(), worker: built.url });

  it('run on the threads that quantize is given', async () => {
    const [a, b] = [await quantize(weight, higgs()), await quantize(weight, threaded(), { threads: teams.get(2)! })];
    expect(b.parts).toEqual(a.parts);
  });

  it('stop when aborted, and leave the threads usable', async () => {
    const abort = new AbortController();
    const reason = new Error('enough');
    const stopped = quantize(weight, threaded(), {
      threads: teams.get(2)!,
      signal: abort.signal,
      onProgress: () => abort.abort(reason),
    });
    await expect(stopped).rejects.toBe(reason);
    expect((await quantize(weight, threaded(), { threads: teams.get(2)! })).parts).toEqual((await quantize(weight, higgs())).parts);
  });

  it('give failures of a thread as they are', async () => {
    const bad = float32Tensor([640, 1024], new Float32Array(640 * 1024).fill(1e7));
    await expect(quantize(bad, threaded(), { threads: teams.get(2)!, metaDtype: 'f16' })).rejects.toMatchObject({
      code: 'ERR_DTYPE_OVERFLOW',
      details: { tensor: 'weight', row: 0, column: 0 },
    });
  });

  it('count every weight once', async () => {
    let last = 0;
    await quantize(weight, threaded(), { threads: teams.get(3)!, onProgress: ({ done }) => (last = done) });
    expect(last).toBe(640 * 1024);
  });
});
