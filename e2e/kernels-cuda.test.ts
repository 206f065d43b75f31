// A real model on the CUDA backend, in the emulator: the same text as the reference.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { int8, nf4 } from '@lowbit/bnb';
import { type BackendProvider, createRuntime, type Quantizer, referenceBackend } from '@lowbit/core';
import { higgs } from '@lowbit/higgs';
import { hqq } from '@lowbit/hqq';
import { openCheckpoint, quantizeCheckpoint } from '@lowbit/hub';
import { cuda } from '@lowbit/kernels-cuda';
import { llama, loadModel } from '@lowbit/models';
import { findBackends } from 'lowbit';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../fixtures/fake-cuda.ts';
import { goldenPath } from '../fixtures/golden.ts';
import { needs } from '../fixtures/needs.ts';
import { ensureBuilt, lowbitJson } from './cli-process.ts';
import { difference, Golden, TOLERANCE } from './families/run.ts';

const folder = fileURLToPath(new URL('../examples/tiny-llama', import.meta.url));
const out = mkdtempSync(join(tmpdir(), 'lowbit-kernels-cuda-'));
afterAll(() => rmSync(out, { recursive: true, force: true }));

/** Greedy token ids of a checkpoint on a backend. */
async function greedy(path: string, backend: BackendProvider): Promise<readonly number[]> {
  await using runtime = await createRuntime({ backends: [backend] });
  await using checkpoint = await openCheckpoint(path);
  await using model = await loadModel(checkpoint, { runtime });
  const { ids } = await model.generate({ prompt: 'It was a fine morning, and', maxTokens: 6, temperature: 0 });
  return ids;
}

/** Logits of every position and greedy tokens as transformers has them; the last a mixture whose prompt takes its experts row by row, and in chunks, together. */
describe('golden models on the CUDA backend', () => {
  it.for(['llama-gqa', 'gemma2', 'mixtral-published'])('%s', async (name, context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    pretend();
    const golden = new Golden(name);
    const prompt = [...golden.ids('input_ids')];
    const want = [...golden.ids('generated')];
    await using runtime = await createRuntime({ backends: [cuda({ driver: FAKE_DRIVER })] });
    await using checkpoint = await openCheckpoint(goldenPath(`models/${name}`));
    for (const options of [{}, { prefillChunk: 7 }]) {
      await using model = await loadModel(checkpoint, { runtime, ...options });
      expect(difference(await model.logits(prompt), golden.get('logits'))).toBeLessThanOrEqual(TOLERANCE);
      const { ids } = await model.generate({ ids: prompt, maxTokens: want.length, temperature: 0, ignoreEos: true });
      expect(ids).toEqual(want);
    }
  });
});

describe('tiny-llama on the CUDA backend generates what the reference generates', () => {
  it.for<readonly [string, (() => Quantizer) | undefined]>([
    ['dense', undefined],
    ['hqq4', () => hqq()],
    ['hqq3, axis 0', () => hqq({ bits: 3, axis: 0 })],
    ['nf4 doubly quantized', () => nf4({ doubleQuant: true })],
    ['int8', () => int8()],
    ['higgs4', () => higgs()],
  ])('%s', async ([name, quantizer], context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    pretend();
    const path = quantizer ? join(out, name) : folder;
    if (quantizer) {
      await using source = await openCheckpoint(folder);
      await quantizeCheckpoint(source, { out: path, quantizer: quantizer(), adapters: [llama] });
    }
    expect(await greedy(path, cuda({ driver: FAKE_DRIVER }))).toEqual(await greedy(path, referenceBackend()));
  });

  it('also by the command, with weights and scales kept on the host, and refused what it has not', {
    timeout: 300_000,
  }, async (context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    ensureBuilt();
    const path = join(out, 'by the command');
    await using source = await openCheckpoint(folder);
    await quantizeCheckpoint(source, { out: path, quantizer: hqq(), adapters: [llama] });
    const where = { cwd: fileURLToPath(new URL('..', import.meta.url)), env: { LOWBIT_CUDA_DRIVER: FAKE_DRIVER, LOWBIT_FAKE_CUDA: '' } };
    const run = (...flags: string[]) =>
      lowbitJson<{ readonly ids: readonly number[]; readonly backend: { readonly device: string } }>(
        ['generate', path, '-p', 'It was', '--max-tokens', '3', '--temp', '0', '--backend', '@lowbit/kernels-cuda', ...flags],
        where,
      );
    const { json: plain } = await run();
    expect(plain.backend.device).toBe('emulated GPU 0');
    for (const flags of [['--weight-memory', '1MB'], ['--offload-meta'], ['--precision', 'fast']])
      expect((await run(...flags)).json.ids).toEqual(plain.ids);
    const refused = await lowbitJson(['generate', path, '-p', 'x', '--backend', '@lowbit/kernels-cuda', '--threads', '2'], where);
    expect(refused.json.error).toMatchObject({ code: 'ERR_BAD_ARGUMENT', message: expect.stringContaining('threads') });
  });

  it('is found by the command under the name of its package', async (context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    vi.stubEnv('LOWBIT_CUDA_DRIVER', FAKE_DRIVER);
    pretend();
    const [provider] = await findBackends('@lowbit/kernels-cuda', { from: fileURLToPath(new URL('..', import.meta.url)) });
    expect(provider).toMatchObject({ name: 'cuda' });
    expect(await provider!.probe()).toMatchObject({ ok: true });
    vi.unstubAllEnvs();
  });
});
