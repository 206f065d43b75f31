import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type BuiltWorker, buildWorker } from '../../../../fixtures/worker.ts';
import { quantize } from '../quantize.ts';
import type { Quantizer } from '../spec/quantizer.ts';
import { float32Tensor, hostTensor } from '../tensor.ts';
import { availableThreads, sharedBytes, type WebWorker } from './host.ts';
import { serveRoutines } from './serve.ts';
import { createWorkers } from './workers.ts';

let worker: BuiltWorker;
beforeAll(async () => {
  worker = await buildWorker('packages/core/src/workers/echo.worker.ts');
});
afterAll(() => worker.remove());

const bytes = (...values: number[]) => hostTensor('u8', [values.length], Uint8Array.from(values));

describe('a pool', () => {
  it('starts threads when there are calls, up to its number, and ends them', async () => {
    const workers = createWorkers({ threads: 2 });
    const pool = workers.pool(worker.url);
    expect(workers.running).toBe(0);
    expect(await pool.routine('echo')([bytes(1, 2)], {})).toEqual([bytes(1, 2)]);
    expect(workers.running).toBe(1);
    const echoes = await Promise.all([1, 2, 3, 4, 5].map((value) => pool.routine('wait')([bytes(value)], { ms: 5 })));
    expect(echoes.map(([echo]) => echo!.data[0])).toEqual([1, 2, 3, 4, 5]);
    expect(workers.running).toBe(2);
    expect(workers.pool(worker.url)).toBe(pool);
    await workers[Symbol.asyncDispose]();
    expect(workers.running).toBe(0);
  });

  it('shares memory that can be shared, and copies of other no more than the tensor', async () => {
    await using workers = createWorkers({ threads: 1 });
    const increment = workers.pool(worker.url).routine('increment');
    const shared = sharedBytes(2);
    const own = Uint8Array.of(9, 1, 2, 9);
    await increment([{ dtype: 'u8', shape: [2], data: shared }], {});
    expect([...shared]).toEqual([1, 1]);
    const [copy] = await increment([{ dtype: 'u8', shape: [2], data: own.subarray(1, 3) }], {});
    expect([...copy!.data]).toEqual([2, 3]);
    expect(copy!.data.buffer.byteLength).toBe(2);
    expect([...own]).toEqual([9, 1, 2, 9]);
  });

  it('refuses arguments that cannot be sent, without losing the thread', async () => {
    await using workers = createWorkers({ threads: 1 });
    const pool = workers.pool(worker.url);
    const broken = pool.routine('echo')([], { f: (() => 1) as never });
    await expect(broken).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT', message: expect.stringContaining('echo') });
    expect(await pool.routine('echo')([bytes(1)], {})).toEqual([bytes(1)]);
    expect(workers.running).toBe(1);
  });

  it('hands errors on with their codes', async () => {
    await using workers = createWorkers({ threads: 1 });
    const pool = workers.pool(worker.url);
    const call = (name: string) => pool.routine(name)([], {});
    await expect(call('refuse')).rejects.toMatchObject({
      code: 'ERR_LIMIT',
      message: 'too much',
      hint: 'Take less.',
      details: { tensor: 'w' },
    });
    await expect(call('fail')).rejects.toMatchObject({ code: 'ERR_WORKER', message: expect.stringContaining('a mistake') });
    await expect(call('toString')).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT', hint: expect.stringContaining('echo') });
    expect(await call('echo')).toEqual([]);
    expect(workers.running).toBe(1);
  });

  it.each(['crash', 'exit'])('rejects what a lost thread had (%s), and goes on with another', async (how) => {
    await using workers = createWorkers({ threads: 1 });
    const pool = workers.pool(worker.url);
    const lost = pool.routine(how)([], {});
    const next = pool.routine('echo')([bytes(7)], {});
    await expect(lost).rejects.toMatchObject({ code: 'ERR_WORKER', message: expect.stringContaining(how) });
    expect(await next).toEqual([bytes(7)]);
  });

  it('rejects calls of a module that is not there', async () => {
    await using workers = createWorkers({ threads: 2 });
    const missing = workers.pool(new URL('missing.mjs', worker.url));
    const both = await Promise.allSettled([missing.routine('echo')([], {}), missing.routine('echo')([], {})]);
    for (const one of both) expect(one).toMatchObject({ status: 'rejected', reason: { code: 'ERR_WORKER' } });
  });

  it('rejects calls under way and later ones when it is disposed of', async () => {
    const workers = createWorkers({ threads: 1 });
    const pool = workers.pool(worker.url);
    const calls = [pool.routine('wait')([], { ms: 60_000 }), pool.routine('echo')([], {})];
    const outcomes = Promise.allSettled(calls);
    await workers[Symbol.asyncDispose]();
    for (const one of await outcomes) expect(one).toMatchObject({ status: 'rejected', reason: { code: 'ERR_DISPOSED' } });
    await expect(pool.routine('echo')([], {})).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    expect(() => workers.pool(worker.url)).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }));
  });
});

describe('Web Workers', () => {
  /** One that answers on this thread. */
  class Local implements WebWorker {
    static ended = 0;
    readonly #listeners = new Map<string, (event: { data?: unknown; message?: string }) => void>();
    addEventListener(type: string, listener: (event: { data?: unknown; message?: string }) => void): void {
      this.#listeners.set(type, listener);
    }
    postMessage(message: unknown): void {
      const { id, inputs, routine } = message as { id: number; inputs: unknown; routine: string };
      if (routine === 'lose') queueMicrotask(() => this.#listeners.get('error')!({ message: 'no such file' }));
      else queueMicrotask(() => this.#listeners.get('message')!({ data: { id, outputs: inputs } }));
    }
    terminate(): void {
      Local.ended++;
    }
  }

  it('come from `spawn`', async () => {
    const workers = createWorkers({ threads: 2, spawn: () => new Local() });
    const pool = workers.pool(new URL('https://example.org/worker.js'));
    expect(await pool.routine('echo')([bytes(5)], {})).toEqual([bytes(5)]);
    await expect(pool.routine('lose')([], {})).rejects.toMatchObject({
      code: 'ERR_WORKER',
      message: expect.stringContaining('no such file'),
    });
    expect(await pool.routine('echo')([bytes(6)], {})).toEqual([bytes(6)]);
    await workers[Symbol.asyncDispose]();
    expect(Local.ended).toBe(2);
  });
});

it('counts the threads of the machine', () => {
  expect(availableThreads()).toBeGreaterThanOrEqual(1);
});

it('serveRoutines is for workers', () => {
  expect(() => serveRoutines({})).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
});

it.each([0, 1.5, Number.NaN, 1e6, '2', true, {}, [], 1n, null])('refuses threads: %s', async (threads) => {
  const weight = float32Tensor([1, 1], [1]);
  const never = { format: () => ({ kind: 'dense', dtype: 'f32' }), quantize: () => expect.unreachable() } as unknown as Quantizer;
  await expect(quantize(weight, never, { threads: threads as never })).rejects.toMatchObject({
    code: 'ERR_BAD_ARGUMENT',
    message: expect.stringContaining('threads cannot be'),
  });
});
