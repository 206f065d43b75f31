// The cache of packed weights with the packages around it: models that come back without their weights being read, threads that end meanwhile, and the
// command that lists and removes it.
import { appendFileSync, cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { nf4 } from '@lowbit/bnb';
import { type Checkpoint, createRuntime, referenceBackend } from '@lowbit/core';
import { hqq } from '@lowbit/hqq';
import { openCheckpoint, quantizeCheckpoint } from '@lowbit/hub';
import { type CpuCacheOptions, cpu, listCache } from '@lowbit/kernels-cpu';
import { llama, loadModel } from '@lowbit/models';
import type { CacheReport, RemovedReport } from 'lowbit';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { needs } from '../fixtures/needs.ts';
import { ensureBuilt, lowbit, lowbitJson, TINY } from './cli-process.ts';

const probe = await cpu().probe();
const addon = (context: { skip(reason: string): void }): void => needs(context, 'kernels-cpu', probe.ok, probe.ok ? '' : probe.reason);
const addonPath = fileURLToPath(new URL('../packages/kernels-cpu/build/Release/lowbit_cpu.node', import.meta.url));

let out: string;
let dir: string;
beforeAll(async () => {
  ensureBuilt();
  out = mkdtempSync(join(tmpdir(), 'lowbit-packed-'));
  for (const [name, quantizer] of Object.entries({ hqq4: hqq(), nf4: nf4() })) {
    await using source = await openCheckpoint(TINY);
    await quantizeCheckpoint(source, { out: join(out, name), quantizer, adapters: [llama] });
  }
  await sleep(150); // a file that was changed a moment ago has no origin
});
afterAll(() => rmSync(out, { recursive: true, force: true }));
beforeEach(() => {
  dir = mkdtempSync(join(out, 'cache-'));
});

interface Loaded {
  readonly ids: readonly number[];
  /** Linears whose weights were read. */
  readonly read: number;
}

/** Greedy ids of a model, loaded with the cache in `dir`. */
async function run(path: string, cache: false | CpuCacheOptions = { dir }, dtype?: 'f32'): Promise<Loaded> {
  await using runtime = await createRuntime({ backends: [cpu({ threads: 2, cache })] });
  await using checkpoint = await openCheckpoint(path);
  let read = 0;
  const watched: Checkpoint = {
    ...checkpoint,
    linear(...args) {
      read++;
      return checkpoint.linear(...args);
    },
  };
  await using model = await loadModel(watched, { runtime, ...(dtype ? { dtype } : {}) });
  const { ids } = await model.generate({ prompt: 'It was a fine morning, and', maxTokens: 12, temperature: 0 });
  expect((await runtime.backend()).allocated()).toBeGreaterThan(0);
  return { ids, read };
}

describe('a model', () => {
  it.for(['hqq4', 'nf4'])('%s comes back without its weights being read, and says the same', async (name, context) => {
    addon(context);
    const path = join(out, name);
    const plain = await run(path, false);
    const cold = await run(path);
    expect(cold.ids).toEqual(plain.ids);
    expect(cold.read).toBe(plain.read);
    for (const how of ['map', 'read'] as const) expect(await run(path, { dir, how })).toEqual({ ids: plain.ids, read: 0 });
    const { models } = await listCache({ dir });
    expect(models).toMatchObject([{ label: path, weights: plain.read }]);
  });

  it('is packed again when its files change, and when the weights that stay dense are to be of another dtype', async (context) => {
    addon(context);
    const path = join(out, 'changing');
    cpSync(join(out, 'hqq4'), path, { recursive: true });
    await sleep(150);
    const first = await run(path);
    expect((await run(path)).read).toBe(0);
    expect((await run(path, { dir }, 'f32')).read).toBe(1); // the embedding
    // Same length, other scales: the last bytes of the file belong to some tensor.
    const file = join(path, 'model.safetensors');
    const bytes = readFileSync(file);
    writeFileSync(file, bytes);
    await sleep(150);
    expect(await run(path)).toEqual(first);
    appendFileSync(join(path, 'config.json'), '\n');
    expect((await run(path)).read).toBe(0); // nothing of the weights changed
  });

  it('that was changed a moment ago is not kept', async (context) => {
    addon(context);
    const path = join(out, 'fresh');
    cpSync(join(out, 'hqq4'), path, { recursive: true });
    const soon = new Date(Date.now() + 60_000);
    utimesSync(join(path, 'model.safetensors'), soon, soon);
    await run(path);
    expect((await listCache({ dir })).models).toEqual([]);
  });

  it('that is not quantized is not kept', async (context) => {
    addon(context);
    await run(TINY);
    expect(readdirSync(dir)).toEqual([]);
  });

  it('is not asked of a backend that keeps nothing', async () => {
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    await using checkpoint = await openCheckpoint(join(out, 'hqq4'));
    await using model = await loadModel(checkpoint, { runtime });
    expect((await model.generate({ prompt: 'It', maxTokens: 1, temperature: 0 })).ids).toHaveLength(1);
  });

  it('runs in several instances at once, from one cache', async (context) => {
    addon(context);
    const path = join(out, 'hqq4');
    const { ids } = await run(path);
    const results = await Promise.all([run(path), run(path, { dir, how: 'read' }), run(path), run(join(out, 'nf4'))]);
    expect(results.slice(0, 3)).toEqual(Array.from({ length: 3 }, () => ({ ids, read: 0 })));
  });
});

describe('threads of JavaScript that end meanwhile', () => {
  const worker = (body: string): Worker =>
    new Worker(
      `const { parentPort, workerData } = require('node:worker_threads');
       const native = require(${JSON.stringify(addonPath)});
       setInterval(() => {}, 1000); // it does not end by itself, however quick the work is
       const machine = native.openMachine('scalar', 2);
       const spec = { kind: 'tiles', out: 4096, inp: 2048, codes: 'c4', meta: 'f16', zeros: true, block: 64, classes: 1 };
       const pack = () => {
         const weight = native.createWeight(spec, {});
         return [weight, native.packWeight(machine, weight, {
           order: 'nibbles', data: new Uint8Array(4096 * 1024), scale: new Uint8Array(4096 * 64), zero: new Uint8Array(4096 * 64),
         })];
       };
       ${body}`,
      { eval: true, workerData: { dir } },
    );
  const message = (thread: Worker): Promise<unknown> =>
    new Promise((resolve, reject) => thread.once('message', resolve).once('error', reject));

  it.for([
    ['packing', "for (let i = 0; i < 8; i++) pack(); parentPort.postMessage('running');"],
    [
      'writing',
      `const [weight, packed] = pack();
       packed.then(() => {
         for (let i = 0; i < 4; i++) native.saveWeight(weight, workerData.dir + '/' + i, new Uint8Array(32), '');
         parentPort.postMessage('running');
       });`,
    ],
    [
      'reading',
      `const [weight, packed] = pack();
       packed.then(() => native.saveWeight(weight, workerData.dir + '/w', new Uint8Array(32), '')).then(() => {
         const file = { spec, path: workerData.dir + '/w', key: new Uint8Array(32) };
         for (const mapped of [true, false]) native.loadWeights(machine, Array.from({ length: 40 }, () => file), mapped);
         parentPort.postMessage('running');
       });`,
    ],
  ] as const)('%s', async ([, body], context) => {
    addon(context);
    for (let round = 0; round < 3; round++) {
      rmSync(dir, { recursive: true, force: true });
      dir = mkdtempSync(join(out, 'cache-'));
      const thread = worker(body);
      expect(await message(thread)).toBe('running');
      expect(await thread.terminate()).toBe(1);
    }
  });

  it('use one cache side by side', async (context) => {
    addon(context);
    const path = join(out, 'hqq4');
    const { ids } = await run(path);
    const code = `
      import { parentPort, workerData } from 'node:worker_threads';
      const [core, hub, kernels, models] = await Promise.all(workerData.modules.map((module) => import(module)));
      const runtime = await core.createRuntime({ backends: [kernels.cpu({ threads: 1, cache: { dir: workerData.dir } })] });
      const checkpoint = await hub.openCheckpoint(workerData.path);
      const model = await models.loadModel(checkpoint, { runtime, disposeRuntime: true });
      const { ids } = await model.generate({ prompt: 'It was a fine morning, and', maxTokens: 12, temperature: 0 });
      await model[Symbol.asyncDispose]();
      await checkpoint[Symbol.asyncDispose]();
      parentPort.postMessage(ids);`;
    const modules = ['core', 'hub', 'kernels-cpu', 'models'].map(
      (name) => new URL(`../packages/${name}/dist/index.js`, import.meta.url).href,
    );
    const url = new URL(`data:text/javascript,${encodeURIComponent(code)}`);
    const threads = [0, 1, 2].map(() => new Worker(url, { workerData: { dir, path, modules } }));
    expect(await Promise.all(threads.map(message))).toEqual([ids, ids, ids]);
  });
});

describe('lowbit cache', () => {
  const env = (): { readonly LOWBIT_CACHE: string } => ({ LOWBIT_CACHE: dir });

  it('lists models and removes them', async (context) => {
    addon(context);
    expect((await lowbit(['cache'], { env: env() })).stdout).toMatch(/Nothing is kept yet/);
    for (const name of ['hqq4', 'nf4']) await run(join(out, name));
    const listed = await lowbitJson<CacheReport>(['cache'], { env: env() });
    expect(listed.json).toMatchObject({ dir, maxBytes: 20 * 2 ** 30 });
    expect(listed.json.models.map(({ model }) => model).sort()).toEqual([join(out, 'hqq4'), join(out, 'nf4')]);
    expect(listed.json.bytes).toBe(listed.json.models.reduce((sum, { bytes }) => sum + bytes, 0));
    const text = (await lowbit(['cache', 'ls'], { env: env() })).stdout;
    for (const { name } of listed.json.models) expect(text).toContain(name);
    expect(text).toMatch(/just now/);

    const removed = await lowbitJson<RemovedReport>(['cache', 'rm', join(out, 'hqq4')], { env: env() });
    expect(removed.json.removed).toMatchObject([{ model: join(out, 'hqq4') }]);
    const last = await lowbit(['cache', 'rm', '--all', '--yes'], { env: env() });
    expect([last.code, last.stdout]).toEqual([0, expect.stringMatching(/^Removed nf4-[0-9a-f]{16}\n1 model, .* freed\n$/)]);
    expect(readdirSync(dir)).toEqual([]);
  });

  it('touches nothing that is not its own', async () => {
    writeFileSync(join(dir, 'mine.txt'), 'mine');
    cpSync(join(out, 'hqq4'), join(dir, 'hqq4-0123456789abcdef'), { recursive: true });
    expect((await lowbitJson<CacheReport>(['cache'], { env: env() })).json.models).toEqual([]);
    expect((await lowbit(['cache', 'rm', '--all', '--yes'], { env: env() })).code).toBe(0);
    expect(readdirSync(dir).sort()).toEqual(['hqq4-0123456789abcdef', 'mine.txt']);
  });

  it('says what is wrong', async () => {
    const said = async (args: readonly string[], more = {}): Promise<readonly [number | null, string]> => {
      const { code, stderr } = await lowbit(['cache', ...args], { env: { ...env(), ...more } });
      return [code, stderr];
    };
    expect(await said(['rm'])).toEqual([2, expect.stringContaining('needs names or --all')]);
    expect(await said(['rm', 'x', '--all'])).toEqual([2, expect.stringContaining('not both')]);
    expect(await said(['rm', 'x'])).toEqual([1, expect.stringContaining('It is empty')]);
    expect(await said([], { LOWBIT_CACHE_SIZE: 'much' })).toEqual([
      1,
      expect.stringMatching(/LOWBIT_CACHE_SIZE cannot be "much".*\nhint: .*50GB/),
    ]);
    expect(await said([], { LOWBIT_CACHE: fileURLToPath(import.meta.url) })).toEqual([1, expect.stringContaining('ERR_IO')]);
  });

  it('asks before it removes all, and does without a terminal only what it was told', async (context) => {
    addon(context);
    await run(join(out, 'hqq4'));
    const { code, stderr } = await lowbit(['cache', 'rm', '--all'], { env: env(), input: 'y\n' });
    expect([code, stderr]).toEqual([2, expect.stringContaining('--yes')]);
    expect((await listCache({ dir })).models).toHaveLength(1);
  });
});
