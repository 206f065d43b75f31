import { fileURLToPath } from 'node:url';
import { type BackendProvider, createRuntime, referenceBackend } from '@lowbit/core';
import { afterEach, expect, it, vi } from 'vitest';
import { findBackends } from './backends.ts';
import { loadModel } from './load-model.ts';
import { type BackendUse, noteOf, runtimeOf, useOf, watchRuntime } from './running-on.ts';

const TINY = fileURLToPath(new URL('../../../examples/tiny-llama', import.meta.url));
afterEach(() => vi.unstubAllEnvs());

/** The reference under another name that does without something. */
function lesser(change: 'no formats' | 'no attention'): BackendProvider {
  const plain = referenceBackend({ name: 'lesser' });
  return {
    ...plain,
    async open(options) {
      const backend = await plain.open(options);
      const ops = new Set([...backend.ops].filter((op) => op !== 'attend'));
      return new Proxy(backend, {
        get(target, key) {
          if (change === 'no attention' && key === 'ops') return ops;
          if (change === 'no formats' && key === 'supports') return () => ({ level: 'none', reason: 'it has never heard of them' });
          const value: unknown = Reflect.get(target, key);
          return typeof value === 'function' ? value.bind(target) : value;
        },
      });
    },
  };
}

/** Where a model ran with `first` preferred to the reference. */
async function ranOn(first: BackendProvider): Promise<BackendUse> {
  await using runtime = await createRuntime({ backends: [first, referenceBackend()] });
  const uses: BackendUse[] = [];
  await using model = await loadModel(TINY, { runtime: watchRuntime(runtime, (use) => uses.push(use)) });
  expect(model.placement.map(({ backend }) => backend)).toEqual([uses[0]!.name]);
  expect(uses).toHaveLength(1);
  return uses[0]!;
}

it('says which backend took a model, and in one line why not the one before', async () => {
  expect(await ranOn(referenceBackend({ name: 'first' }))).toEqual({ name: 'first', device: 'host memory, one thread', why: null });
  const reference = { name: 'reference', device: 'host memory, one thread' };
  expect(await ranOn(lesser('no formats'))).toEqual({
    ...reference,
    why: expect.stringMatching(/^lesser does not take bf16 \[\d+, \d+\]: it has never heard of them$/),
  });
  const use = await ranOn(lesser('no attention'));
  expect(use).toEqual({ ...reference, why: 'lesser does not run attend' });
  expect(noteOf(use)).toBe('lesser does not run attend; running in plain TypeScript, slowly.');
  expect(noteOf({ ...use, name: 'other' })).toBe('lesser does not run attend; running on other.');
  expect(noteOf(use, 'estimating')).toBe('lesser does not run attend; the estimate is for plain TypeScript.');
  expect(noteOf({ ...use, name: 'other' }, 'estimating')).toBe('lesser does not run attend; the estimate is for other.');
  expect(noteOf({ ...use, why: null })).toBeUndefined();
});

it('tells a caller of the library once that the native backend cannot be had', async () => {
  vi.stubEnv('LOWBIT_CPU_ADDON', '/nowhere/lowbit.node');
  const notes: string[] = [];
  await using own = await runtimeOf({ onNote: (note) => notes.push(note) });
  for (let i = 0; i < 2; i++) await (await loadModel(TINY, { runtime: own.runtime }))[Symbol.asyncDispose]();
  expect(notes).toEqual([
    expect.stringMatching(
      /^cpu is not available: .* could not be loaded: path: \/nowhere\/lowbit\.node: .*; running in plain TypeScript, slowly\.$/,
    ),
  ]);
  expect(notes[0]).not.toContain('\n');
  await expect(loadModel(TINY, { backends: await findBackends('cpu') })).rejects.toMatchObject({
    code: 'ERR_BACKEND_UNAVAILABLE',
    message: expect.stringContaining('/nowhere/lowbit.node'),
  });
});

it('knows the backend before a model is loaded, and disposes what is its own alone', async () => {
  await using runtime = await createRuntime({ backends: [referenceBackend({ name: 'given' })] });
  expect(await useOf(runtime)).toMatchObject({ name: 'given', why: null });
  await (await runtimeOf({ runtime }))[Symbol.asyncDispose]();
  expect((await runtime.backend()).name).toBe('given');
  const own = await runtimeOf({ backends: [referenceBackend()] });
  await own[Symbol.asyncDispose]();
  await expect(own.runtime.backend()).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
});
