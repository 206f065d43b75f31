// What a GPU can do to a program: no memory in the middle, an address that is not there, another order of threads.
import { type Backend, isLowbitError, type QuantizedLinear, toFloat32 } from '@lowbit/core';
import { sampleWeight } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../../../fixtures/fake-cuda.ts';
import { needs } from '../../../fixtures/needs.ts';
import { tinyDecoder } from '../../../fixtures/tiny-decoder.ts';
import { type CudaOptions, cuda } from './cuda.ts';
import type { CudaExecutable } from './executable.ts';

const HQQ4 = { kind: 'affine', levels: 16, group: 32, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' } as const;

async function open(
  context: { skip(reason: string): void },
  settings: Parameters<typeof pretend>[0] = {},
  options: CudaOptions = {},
): Promise<Backend> {
  needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
  pretend(settings);
  return cuda({ driver: FAKE_DRIVER, ...options }).open();
}

async function prepared(backend: Backend, program = tinyDecoder(HQQ4)): Promise<QuantizedLinear[]> {
  const linears: QuantizedLinear[] = [];
  for (const [i, { use }] of program.program.linears.entries()) linears.push(await backend.prepare(program.weights[i]!, { use }));
  return linears;
}

/** Logits of a prompt and of tokens after it, one at a time. */
async function decoded(backend: Backend, tokens = [3, 1, 4, 1, 5, 9, 2, 6]): Promise<{ logits: number[]; replays: number }> {
  const decoder = tinyDecoder(HQQ4);
  const linears = await prepared(backend, decoder);
  using executable = await backend.compile(decoder.program, linears, { contextLength: 64 });
  const id = executable.open();
  const logits: number[] = [];
  for (const chunk of [tokens.slice(0, 3), ...tokens.slice(3).map((token) => [token])]) {
    const { logits: rows } = await executable.step([{ id, tokens: Uint32Array.from(chunk) }]);
    logits.push(...toFloat32(rows!));
  }
  const replays = (executable as CudaExecutable).replays;
  for (const linear of linears) linear[Symbol.dispose]();
  return { logits, replays };
}

describe('a step', () => {
  it('has the same bytes in any order of threads and blocks, recorded or not', async (context) => {
    const all: number[][] = [];
    for (const seed of [1, 2, 3]) {
      await using backend = await open(context, { seed });
      const { logits, replays } = await decoded(backend);
      // Five tokens one at a time: the first as it comes, then from a recording.
      expect(replays).toBe(4);
      expect(backend.allocated()).toBe(0);
      all.push(logits);
    }
    expect(all[1]).toEqual(all[0]);
    expect(all[2]).toEqual(all[0]);
    expect(all[0]!.every(Number.isFinite)).toBe(true);
  });

  it('is recorded when its row counts come again, after many others, too', async (context) => {
    await using backend = await open(context);
    const decoder = tinyDecoder(HQQ4);
    using executable = await backend.compile(decoder.program, await prepared(backend, decoder), { contextLength: 4096 });
    const step = async (count: number, wanted: number): Promise<readonly number[]> => {
      const id = executable.open();
      const all = { tokens: new Uint32Array(count).fill(5), wanted: Uint32Array.from({ length: wanted }, (_, i) => i) };
      const { logits } = await executable.step([{ id, ...all }]);
      executable.close(id);
      return [...toFloat32(logits!)];
    };
    const replays = (): number => (executable as CudaExecutable).replays;
    // 70 shapes once each, then 20 of them twice: all lists have been full.
    for (let i = 0; i < 70; i++) await step(8 + (i % 10), 1 + Math.floor(i / 10));
    expect(replays()).toBe(0);
    for (let i = 0; i < 20; i++) {
      const [first, second, third] = [await step(3, 1 + (i % 3)), await step(3, 1 + (i % 3)), await step(4 + (i % 10), 1)];
      expect(second).toEqual(first);
      expect(third.slice(0, 32)).toEqual(first.slice(0, 32)); // of the first row, whatever the rows beside it
    }
    expect(replays()).toBeGreaterThan(20);
  });

  it.for([
    ['f16', 2e-3],
    ['bf16', 2e-2],
  ] as const)('with keys and values in %s: half the memory, numbers rounded', async ([kvDtype, tolerance], context) => {
    const run = async (options: CudaOptions): Promise<{ logits: number[]; cache: number }> => {
      await using backend = await open(context, {}, options);
      const decoder = tinyDecoder(HQQ4);
      using executable = await backend.compile(decoder.program, await prepared(backend, decoder), { contextLength: 64 });
      const { logits } = await executable.step([{ id: executable.open(), tokens: Uint32Array.of(3, 1, 4, 1, 5) }]);
      return { logits: [...toFloat32(logits!)], cache: executable.memory().cache };
    };
    const [whole, half] = [await run({}), await run({ kvDtype })];
    expect(half.cache * 2).toBe(whole.cache);
    expect(half.logits).not.toEqual(whole.logits);
    const largest = Math.max(...whole.logits.map(Math.abs));
    for (const [i, value] of half.logits.entries()) expect(Math.abs(value - whole.logits[i]!)).toBeLessThan(tolerance * largest);
  });

  it('that finds no memory is an error, changes nothing and can be done again', async (context) => {
    await using backend = await open(context, { memory: 65 * 2 ** 20 });
    const decoder = tinyDecoder(HQQ4);
    const linears = await prepared(backend, decoder);
    using executable = await backend.compile(decoder.program, linears, { contextLength: 64 });
    const id = executable.open();
    await executable.step([{ id, tokens: Uint32Array.of(1, 2) }]);
    const before = executable.memory().cache;
    // All that is left, so that neither caches nor activations can grow.
    const rest = Math.floor((65 * 2 ** 20 - backend.allocated()) / 4 / 1024) * 1024;
    const hog = backend.alloc({ dtype: 'f32', shape: [rest] });
    const more = Uint32Array.from({ length: 40 }, () => 1);
    const failed = await executable.step([{ id, tokens: more }]).catch((error: unknown) => error);
    expect(failed).toMatchObject({ code: 'ERR_LIMIT', details: { reason: 'OUT_OF_MEMORY' } });
    expect(isLowbitError(failed) && failed.hint).toContain('more memory');
    // How much was asked for, and how much is there.
    expect(isLowbitError(failed) && failed.message).toMatch(/no room for \d+ bytes on the device, \d+ of 68157440 are free/);
    expect(executable.length(id)).toBe(2);
    backend.free(hog);
    expect(executable.memory().cache).toBeGreaterThanOrEqual(before);
    await executable.step([{ id, tokens: more }]);
    expect(executable.length(id)).toBe(42);
  });

  it('with a fault on the device is an error, and so is everything after it', async (context) => {
    await using backend = await open(context, { wild: 'attend_few' });
    const decoder = tinyDecoder(HQQ4);
    const linears = await prepared(backend, decoder);
    using executable = await backend.compile(decoder.program, linears, { contextLength: 64 });
    const id = executable.open();
    const failed = await executable.step([{ id, tokens: Uint32Array.of(1, 2) }]).catch((error: unknown) => error);
    expect(failed).toMatchObject({ code: 'ERR_DEVICE', details: { reason: 'DEVICE_LOST' } });
    expect(isLowbitError(failed) && failed.message).toContain('CUDA_ERROR_ILLEGAL_ADDRESS');
    expect(executable.length(id)).toBe(0);
    await expect(executable.step([{ id, tokens: Uint32Array.of(1) }])).rejects.toMatchObject({ code: 'ERR_DEVICE' });
    expect(() => backend.alloc({ dtype: 'f32', shape: [4] })).toThrow(expect.objectContaining({ code: 'ERR_DEVICE' }));
  });

  it.for([
    ['cuLaunchKernel/46/30', 'CUDA_ERROR_DEVICE_UNAVAILABLE'],
    ['cuStreamSynchronize/214/3', 'CUDA_ERROR_ECC_UNCORRECTABLE'],
    ['cuGraphLaunch/999/1', 'CUDA_ERROR_UNKNOWN'],
  ] as const)('whose GPU is taken away is an error that says so: %s', async ([fail, name], context) => {
    await using backend = await open(context, { fail });
    const failed = await decoded(backend).catch((error: unknown) => error);
    expect(failed).toMatchObject({ code: 'ERR_DEVICE', details: { reason: 'DEVICE_GONE' } });
    expect(isLowbitError(failed) && failed.message).toContain(name);
    expect(isLowbitError(failed) && failed.hint).toContain('nvidia-smi');
  });

  it.for(['cuStreamBeginCapture/801/1', 'cuStreamEndCapture/901/1', 'cuGraphInstantiate/2/1', 'cuGraphLaunch/1/1', 'cuLaunchKernel/1/30'])(
    'is an error where %s',
    async (failure, context) => {
      await using backend = await open(context, { fail: failure });
      await expect(decoded(backend)).rejects.toMatchObject({ code: expect.stringMatching(/^ERR_(DEVICE|LIMIT)$/) });
    },
  );
});

describe('a weight', () => {
  it('for which there is no memory leaves nothing behind, wherever it runs out', async (context) => {
    const weight = sampleWeight(HQQ4, [64, 128]);
    /** Whether it was prepared where the call-th time that memory is asked for there is none. */
    const attempt = async (call: number): Promise<boolean> => {
      await using backend = await open(context, { fail: `cuMemAlloc/2/${call}` });
      const linear = await backend.prepare(weight).catch((error: unknown) => {
        expect(error).toMatchObject({ code: 'ERR_LIMIT', details: { reason: 'OUT_OF_MEMORY' } });
      });
      expect(backend.allocated()).toBe(linear?.bytes ?? 0);
      linear?.[Symbol.dispose]();
      return linear !== undefined;
    };
    // The weight itself; for codes on their way there is memory of the host, too.
    expect([await attempt(1), await attempt(2), await attempt(3)]).toEqual([false, true, true]);
  });

  it('for which there is no memory in the middle of a model: what was loaded is given back, and the error has the numbers', async (context) => {
    const decoder = tinyDecoder(HQQ4);
    const failures: number[] = [];
    for (const call of [1, 2, 7, 8, 30]) {
      await using backend = await open(context, { fail: `cuMemAlloc/2/${call}` });
      const linears: QuantizedLinear[] = [];
      const failed = await (async () => {
        for (const [i, { use }] of decoder.program.linears.entries()) linears.push(await backend.prepare(decoder.weights[i]!, { use }));
        using executable = await backend.compile(decoder.program, linears, { contextLength: 64 });
        await executable.step([{ id: executable.open(), tokens: Uint32Array.of(1) }]);
      })().catch((error: unknown) => error);
      // Codes on their way find memory of the host instead: only the weights themselves must be there.
      if (failed !== undefined) {
        failures.push(call);
        expect(failed).toMatchObject({ code: 'ERR_LIMIT', details: { reason: 'OUT_OF_MEMORY' } });
        expect(isLowbitError(failed) && failed.message).toMatch(/no room for \d+ bytes on the device, \d+ of \d+ are free/);
      }
      for (const linear of linears) linear[Symbol.dispose]();
      expect(backend.allocated()).toBe(0);
    }
    expect(failures).toEqual([1, 7]);
  });

  it('with offloaded scales takes device memory for its codes alone', async (context) => {
    await using backend = await open(context);
    const weight = sampleWeight(HQQ4, [64, 128]);
    using plain = await backend.prepare(weight);
    using offloaded = await backend.prepare(weight, { offloadMeta: true });
    expect(plain.bytes - offloaded.bytes).toBe(2 * 2 * ((64 * 128) / 32));
    expect(await offloaded.dequantize()).toEqual(await plain.dequantize());
  });

  it('whose codes do not fit their bits is refused', async (context) => {
    await using backend = await open(context);
    const weight = sampleWeight({ ...HQQ4, packing: '8bit_u8' }, [8, 32]);
    const codes = { ...weight.parts.codes!, data: weight.parts.codes!.data.slice().fill(16, 9, 10) };
    await expect(backend.prepare({ ...weight, parts: { ...weight.parts, codes } })).rejects.toMatchObject({ code: 'ERR_TENSOR_MISMATCH' });
    expect(backend.allocated()).toBe(0);
  });
});
