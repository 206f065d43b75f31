// What `estimateMemory` says before anything is loaded, against what the backend counts while the model runs: every golden family as it is, and tiny-llama by
// every method, on the reference backend and on the native one; a few families on WebGPU (SwiftShader) and on CUDA (the fake driver). "At most" is found by looking whenever the backend looks at an operation of the program, and
// after every step, and on GPUs whenever a step has taken what it needs.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { int8, nf4 } from '@lowbit/bnb';
import {
  type BackendProvider,
  type Checkpoint,
  createRuntime,
  type ModelAdapter,
  type Program,
  type Quantizer,
  referenceBackend,
} from '@lowbit/core';
import { higgs } from '@lowbit/higgs';
import { hqq } from '@lowbit/hqq';
import { openCheckpoint, quantizeCheckpoint } from '@lowbit/hub';
import { cpu } from '@lowbit/kernels-cpu';
import { cuda } from '@lowbit/kernels-cuda';
import { type WebGpuOptions, webgpu } from '@lowbit/kernels-webgpu';
import { defaultAdapters, estimateMemory, loadModel, type MemoryEstimate } from '@lowbit/models';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../fixtures/fake-cuda.ts';
import * as golden from '../fixtures/golden.ts';
import { needs } from '../fixtures/needs.ts';
import { noWebGpu, TEST_OPTIONS } from '../fixtures/webgpu.ts';
import type { CudaBinding } from '../packages/kernels-cuda/src/binding.ts';
import { addon } from '../packages/kernels-cuda/src/load.node.ts';
import { findAdapter, findGpu, requestDevice } from '../packages/kernels-webgpu/src/adapter.ts';
import type { GpuDevice } from '../packages/kernels-webgpu/src/gpu.ts';
import { goldenModels } from '../packages/models/src/testing/golden-models.ts';

const TINY = fileURLToPath(new URL('../examples/tiny-llama', import.meta.url));
const probe = await cpu().probe();
/** `look` is for what looking at programs misses. */
type Provide = (look: () => void) => BackendProvider | Promise<BackendProvider>;
const BACKENDS: readonly (readonly [string, Provide])[] = [
  ['reference', () => referenceBackend()],
  ['kernels-cpu, exact', () => cpu({ threads: 2, cache: false })],
  ['kernels-cpu, fast, bf16', () => cpu({ threads: 1, precision: 'fast', kvDtype: 'bf16', cache: false })],
];
const METHODS: readonly (readonly [string, Quantizer])[] = [
  ['hqq 4 bits', hqq()],
  ['hqq 3 bits', hqq({ bits: 3 })],
  ['hqq 2 bits, columns', hqq({ bits: 2, groupSize: 16, axis: 0 })],
  ['nf4', nf4()],
  ['int8', int8()],
  ['higgs 4 bits', higgs()],
];

/** Adapters whose programs tell when a backend looks at an operation. */
function watched(look: () => void): readonly ModelAdapter[] {
  const watch = (program: Program): Program => ({
    ...program,
    ops: program.ops.map(
      (op) =>
        new Proxy(op, {
          get: (target, name) => {
            look();
            return Reflect.get(target, name);
          },
        }),
    ),
  });
  return defaultAdapters.map((adapter) => ({
    ...adapter,
    async describe(...args) {
      const { encoder, ...description } = await adapter.describe(...args);
      return {
        ...description,
        program: watch(description.program),
        ...(encoder && { encoder: { ...encoder, program: watch(encoder.program) } }),
      };
    },
  }));
}

interface Found {
  readonly estimate: MemoryEstimate;
  /** Most that the backend counted. */
  readonly most: number;
  /** What the model said of full caches, and of its weights. */
  readonly held: { readonly weights: number; readonly kvCache: number };
}

/** Fills a context of `contextLength` in four steps: before the last one all caches are as large as they get. */
async function run(checkpoint: Checkpoint, provide: Provide, contextLength: number): Promise<Found> {
  let looking: (() => void) | undefined;
  await using runtime = await createRuntime({ backends: [await provide(() => looking?.())] });
  const backend = await runtime.backend();
  const options = { runtime, contextLength, prefillChunk: contextLength / 4 };
  const estimate = await estimateMemory(checkpoint, options);
  expect(backend.allocated()).toBe(0);
  let most = 0;
  const look = (): void => {
    most = Math.max(most, backend.allocated());
  };
  looking = look;
  await using model = await loadModel(checkpoint, { ...options, adapters: watched(look) });
  const ids = Array.from({ length: contextLength }, (_, i) => (i * 7) % Math.min(model.vocab, 90));
  const given = checkpoint.config.is_encoder_decoder === true ? { encoderIds: ids } : {};
  for await (const _ of model.logitRows(ids, { ...given, from: contextLength - 1 })) {
    look();
    const { weights, kvCache } = model.memory();
    return { estimate, most, held: { weights, kvCache } };
  }
  throw new Error('no rows came');
}

function check({ estimate, most, held }: Found): void {
  expect(estimate.weights).toBe(held.weights);
  expect(estimate.kvCache).toBe(held.kvCache);
  expect(most / estimate.total).toBeGreaterThan(0.97);
  expect(most / estimate.total).toBeLessThan(1.03);
}

const { folders } = goldenModels(golden);

describe.each(BACKENDS)('on %s', (name, provider) => {
  it.for([...folders, 't5-gated'])('%s', async (folder, context) => {
    if (name !== 'reference') needs(context, 'kernels-cpu', probe.ok, probe.ok ? '' : probe.reason);
    await using checkpoint = await openCheckpoint(golden.goldenPath(`models/${folder}`));
    const found = await run(checkpoint, provider, 48);
    check(found);
    expect(found.estimate.counted).toBe(name !== 'reference');
  });
});

const FAMILIES = ['llama-gqa', 'gemma3', 'mixtral-published', 'gpt2', 'bloom', 'phi3-longrope', 't5-gated'];
const noGpu = await noWebGpu();

/** One for all tests: it keeps the shaders that it has compiled. */
let gpu: GpuDevice | undefined;
afterAll(() => gpu?.destroy());

/** Looks when a step that has taken all of its memory is written down. */
async function watchedGpu(look: () => void, options: WebGpuOptions = {}): Promise<BackendProvider> {
  gpu ??= await requestDevice(await findAdapter(await findGpu(TEST_OPTIONS.dawn), { software: true }));
  const device = new Proxy(gpu, {
    get(target, name) {
      if (name === 'createCommandEncoder') look();
      const value = Reflect.get(target, name);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
  return webgpu({ ...TEST_OPTIONS, ...options, device });
}

/** Looks while a cache that has grown has two buffers. */
function watchedCuda(look: () => void): BackendProvider {
  pretend();
  const native = addon.load();
  const freeBuffer: CudaBinding['freeBuffer'] = (buffer) => {
    look();
    native.freeBuffer(buffer);
  };
  return cuda({ driver: FAKE_DRIVER, binding: { ...native, freeBuffer } });
}

describe('on WebGPU', () => {
  it.for([...FAMILIES.map((folder) => [folder, 'f32'] as const), ['llama-gqa', 'bf16'] as const])(
    '%s, %s',
    async ([folder, kvDtype], context) => {
      needs(context, 'webgpu', noGpu === undefined, noGpu ?? '');
      await using checkpoint = await openCheckpoint(golden.goldenPath(`models/${folder}`));
      const found = await run(checkpoint, (look) => watchedGpu(look, { kvDtype }), 48);
      check(found);
      expect(found.estimate.counted).toBe(true);
    },
  );
});

describe('a GPU that binds 65536 bytes at once', () => {
  it('does not hold the keys and values of a long text', async (context) => {
    needs(context, 'webgpu', noGpu === undefined, noGpu ?? '');
    const real = await requestDevice(await findAdapter(await findGpu(TEST_OPTIONS.dawn), { software: true }));
    const { maxStorageBuffersPerShaderStage, maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup, maxBufferSize } =
      real.limits;
    const workgroup = { maxStorageBuffersPerShaderStage, maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup };
    const limits = { ...workgroup, maxBufferSize, maxStorageBufferBindingSize: 65536 };
    const device = new Proxy(real, {
      get(target, name) {
        const value = name === 'limits' ? limits : Reflect.get(target, name);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    await using runtime = await createRuntime({ backends: [webgpu({ ...TEST_OPTIONS, device })] });
    await using checkpoint = await openCheckpoint(golden.goldenPath('models/llama-gqa'));
    const options = { runtime, prefillChunk: 1, available: 2 ** 40 };
    const long = await estimateMemory(checkpoint, { ...options, contextLength: 1024 });
    expect(long.verdict).toBe('no');
    expect(long.reason).toMatch(/^kernels-webgpu: keys and values takes \d+ bytes, .* binds 65536 at once$/);
    expect(await estimateMemory(checkpoint, { ...options, contextLength: 16 })).toMatchObject({ verdict: 'fits', counted: true });
    real.destroy();
  });
});

describe('on CUDA', () => {
  it.for(FAMILIES)('%s', async (folder, context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    await using checkpoint = await openCheckpoint(golden.goldenPath(`models/${folder}`));
    const found = await run(checkpoint, watchedCuda, 48);
    check(found);
    expect(found.estimate.counted).toBe(true);
  });
});

describe('tiny-llama by every method', () => {
  let dir = '';
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'lowbit-estimate-'));
    await using checkpoint = await openCheckpoint(TINY);
    for (const [name, quantizer] of METHODS)
      await quantizeCheckpoint(checkpoint, { quantizer, out: join(dir, name), adapters: defaultAdapters });
  });
  afterAll(() => rm(dir, { recursive: true, force: true }));

  it.for(METHODS.flatMap(([method]) => BACKENDS.map((backend) => [method, ...backend] as const)))(
    '%s on %s',
    async ([method, name, provider], context) => {
      if (name !== 'reference') needs(context, 'kernels-cpu', probe.ok, probe.ok ? '' : probe.reason);
      await using checkpoint = await openCheckpoint(join(dir, method));
      const found = await run(checkpoint, provider, 96);
      check(found);
      // The same is said of the model before it is quantized.
      await using runtime = await createRuntime({ backends: [await provider(() => {})] });
      await using original = await openCheckpoint(TINY);
      const formats = new Map([...checkpoint.quantized].map(([path, { format }]) => [path, format]));
      const before = await estimateMemory(original, {
        runtime,
        contextLength: 96,
        prefillChunk: 24,
        formatOf: (path) => formats.get(path),
      });
      expect({ ...before, device: '' }).toEqual({ ...found.estimate, device: '' });
    },
  );
});
