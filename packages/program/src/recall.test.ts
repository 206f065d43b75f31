// Weights that a backend has kept come back without being read.

import type { Backend, BackendProvider, PrepareOptions, QuantizedTensor, RecallRequest } from '@lowbit/core';
import { createRuntime, referenceBackend } from '@lowbit/core';
import { decoderCase, play, together } from '@lowbit/testing';
import { expect, it } from 'vitest';
import { loadProgram } from './load.ts';

interface Keeper extends BackendProvider {
  readonly kept: Map<string, QuantizedTensor>;
  readonly asked: (readonly RecallRequest[])[];
  opened: Backend | undefined;
}

/** The reference with a memory that outlives it. */
function keeper(name = 'keeper'): Keeper {
  const provider = referenceBackend({ name });
  const kept = new Map<string, QuantizedTensor>();
  const asked: (readonly RecallRequest[])[] = [];
  const self: Keeper = {
    ...provider,
    kept,
    asked,
    opened: undefined,
    async open() {
      const backend = await provider.open();
      const prepare = backend.prepare.bind(backend);
      self.opened = Object.assign(backend, {
        async prepare(weight: QuantizedTensor, options: PrepareOptions = {}) {
          if (options.origin) kept.set(`${options.origin.model} ${options.origin.weight}`, weight);
          return prepare(weight, options);
        },
        async recall(requests: readonly RecallRequest[], { signal }: { readonly signal?: AbortSignal | undefined } = {}) {
          asked.push(requests);
          return Promise.all(
            requests.map(({ origin, use, bias }) => {
              const weight = kept.get(`${origin.model} ${origin.weight}`);
              return weight && prepare(weight, { use, bias, signal });
            }),
          );
        },
      });
      return self.opened;
    },
  };
  return self;
}

const { test, scripts } = decoderCase();
const formats = test.program.linears.map(({ path }) => test.weights.get(path)!.format);
const origins = test.program.linears.map(({ path }) => ({ label: 'test', model: 'one', weight: path }));

/** Loads the program; which weights were read. */
async function load(provider: BackendProvider, options: object = {}) {
  await using runtime = await createRuntime({ backends: [provider] });
  const read: string[] = [];
  const loadWeight = async ({ path }: { readonly path: string }) => {
    read.push(path);
    return { weight: test.weights.get(path)! };
  };
  await using loaded = await loadProgram(runtime, test.program, loadWeight, { contextLength: 64, formats, origins, ...options });
  return { read, outputs: await play(loaded as never, test.program, scripts, together(scripts)) };
}

it('asks once, for all weights, and reads the others', async () => {
  const provider = keeper();
  const cold = await load(provider);
  expect(cold.read).toEqual(test.program.linears.map(({ path }) => path));
  expect(provider.asked.map((requests) => requests.length)).toEqual([test.program.linears.length]);
  const warm = await load(provider);
  expect(warm).toEqual({ read: [], outputs: cold.outputs });
  const [gone] = [...provider.kept.keys()] as [string];
  provider.kept.delete(gone);
  expect((await load(provider)).read).toEqual([gone.slice('one '.length)]);
});

it('passes use, shape and the bias that the program names', async () => {
  const provider = keeper();
  await load(provider);
  for (const [i, { shape, use, bias }] of test.program.linears.entries()) {
    const asked = provider.asked[0]![i]!;
    expect(asked).toMatchObject({ format: formats[i], shape, use, origin: origins[i] });
    expect(asked.bias).toBe(bias === undefined || use === 'embedding' ? undefined : test.program.constants[bias]);
  }
});

it('asks for no weight without an origin or a format', async () => {
  const provider = keeper();
  await load(provider, { origins: undefined });
  await load(provider, { formats: undefined });
  await load(provider, { origins: origins.map((origin, i) => (i === 0 ? origin : undefined)) });
  expect(provider.asked.map((requests) => requests.length)).toEqual([1]);
});

it('gives back what came when the rest fails', async () => {
  const provider = keeper();
  await load(provider);
  provider.kept.delete([...provider.kept.keys()].at(-1)!);
  await using runtime = await createRuntime({ backends: [provider] });
  const failing = loadProgram(runtime, test.program, () => Promise.reject(new Error('no disk')), { contextLength: 64, formats, origins });
  await expect(failing).rejects.toThrow('no disk');
  expect(provider.opened!.allocated()).toBe(0);
});
