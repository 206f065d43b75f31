// What `measure` says against what a compiled program takes then, to the byte; and what it refuses, against what the device refuses.
import type { Format, StepSize } from '@lowbit/core';
import { afterAll, describe, expect, it, type TestContext } from 'vitest';
import { needs } from '../../../fixtures/needs.ts';
import { type TinyDecoder, tinyDecoder } from '../../../fixtures/tiny-decoder.ts';
import { noWebGpu, TEST_OPTIONS } from '../../../fixtures/webgpu.ts';
import { findAdapter, findGpu, requestDevice } from './adapter.ts';
import type { WebGpuBackend } from './backend.ts';
import type { GpuDevice, GpuLimits } from './gpu.ts';
import { type WebGpuOptions, webgpu } from './webgpu.ts';

const missing = await noWebGpu();
const AFFINE: Format = { kind: 'affine', levels: 16, group: 32, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' };
const INT8: Format = { kind: 'int8', threshold: 6 };
const LONG = { timeout: 120_000 };

interface Watched extends AsyncDisposable {
  readonly backend: WebGpuBackend;
  /** Most bytes when commands were begun: a step has all of its memory then. */
  most: number;
}

/** One for all tests: it keeps the shaders that it has compiled. */
let shared: GpuDevice | undefined;
afterAll(() => shared?.destroy());

/** `limits` in place of the device's. */
async function opened(context: TestContext, options: WebGpuOptions = {}, limits: Partial<GpuLimits> = {}): Promise<Watched> {
  needs(context, 'webgpu', missing === undefined, missing ?? '');
  shared ??= await requestDevice(await findAdapter(await findGpu(TEST_OPTIONS.dawn), { software: true }));
  const real = shared;
  const { maxBufferSize, maxStorageBufferBindingSize, ...others } = real.limits;
  const { maxStorageBuffersPerShaderStage, maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup } = real.limits;
  const device = new Proxy(real, {
    get(target, key) {
      if (key === 'createCommandEncoder') watched.most = Math.max(watched.most, backend.counts.bytes);
      if (key === 'limits') {
        const workgroup = { maxStorageBuffersPerShaderStage, maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup };
        return { ...others, maxBufferSize, maxStorageBufferBindingSize, ...workgroup, ...limits };
      }
      const value = Reflect.get(target, key);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
  const backend = (await webgpu({ ...TEST_OPTIONS, ...options, device }).open()) as WebGpuBackend;
  const watched: Watched = {
    backend,
    most: 0,
    async [Symbol.asyncDispose]() {
      await backend[Symbol.asyncDispose]();
    },
  };
  return watched;
}

/** Asks first, then runs steps of that size until the texts are as long. Throws what a step rejects with. */
async function run(watched: Watched, { program, weights }: TinyDecoder, size: StepSize) {
  const { backend } = watched;
  const requests = program.linears.map(({ shape, use }, i) => ({ format: weights[i]!.format, shape, use }));
  const said = backend.measure(program, requests, size);
  expect(backend.counts).toMatchObject({ buffers: 0, bytes: 0, submits: 0 });
  const linears = await Promise.all(program.linears.map(({ use }, i) => backend.prepare(weights[i]!, { use })));
  const held = linears.reduce((sum, { bytes }) => sum + bytes, 0);
  const { contextLength, sequences, tokens } = size;
  using executable = await backend.compile(program, linears, { contextLength });
  const constants = backend.allocated() - held;
  const ids = Array.from({ length: sequences }, () => executable.open());
  let failure: unknown;
  for (let at = 0; at < contextLength && failure === undefined; at += tokens) {
    const batch = ids.map((id) => ({ id, tokens: new Uint32Array(Math.min(tokens, contextLength - at)) }));
    await executable.step(batch).catch((error: unknown) => {
      failure = error;
    });
  }
  const { cache } = executable.memory();
  const scratch = watched.most - held - constants - cache;
  return { said, found: { constants, scratch, kept: backend.allocated() - held - constants - cache, cache }, failure };
}

const SIZE: StepSize = { contextLength: 40, sequences: 1, tokens: 8, outputs: 1, encoder: 0 };

describe('measure', () => {
  it.for<readonly [string, TinyDecoder, Partial<StepSize>, WebGpuOptions]>([
    ['a text', tinyDecoder(AFFINE), {}, {}],
    ['texts whose last step is short, keys in bf16', tinyDecoder(AFFINE), { sequences: 2, tokens: 9 }, { kvDtype: 'bf16' }],
    ['experts, which move when they are compiled', tinyDecoder(INT8, { experts: 5 }), {}, {}],
    ['weights in pieces', tinyDecoder(AFFINE, { experts: 3 }), {}, { bindingLimit: 4096 }],
  ])('counts every byte: %s', LONG, async ([, decoder, size, options], context) => {
    await using watched = await opened(context, options);
    const { said, found, failure } = await run(watched, decoder, { ...SIZE, ...size });
    expect(failure).toBeUndefined();
    expect(said).toEqual(found);
  });

  it.for<readonly [string, Partial<StepSize>, Partial<GpuLimits>]>([
    ['keys and values', { contextLength: 256, tokens: 16 }, { maxStorageBufferBindingSize: 65536 }],
    ['keys and values', { contextLength: 256, tokens: 16 }, { maxBufferSize: 65536 }],
    ['activations of a step', { contextLength: 96, tokens: 96 }, { maxStorageBufferBindingSize: 65536 }],
  ])('refuses %s where the device would, in the same words', LONG, async ([what, size, limits], context) => {
    await using watched = await opened(context, {}, limits);
    const { said, failure } = await run(watched, tinyDecoder(AFFINE), { ...SIZE, ...size });
    expect(failure).toMatchObject({ code: 'ERR_LIMIT', details: { reason: 'BINDING_LIMIT', limit: 65536 } });
    expect(said.refused).toBe((failure as Error).message);
    expect(said.refused).toContain(`kernels-webgpu: ${what} takes `);
  });
});

it('while compiling, the experts of one operation are in memory twice, not those of all', LONG, async (context) => {
  await using watched = await opened(context);
  const { backend } = watched;
  const { program, weights } = tinyDecoder(INT8, { experts: 5 });
  const linears = await Promise.all(program.linears.map(({ use }, i) => backend.prepare(weights[i]!, { use })));
  const held = backend.allocated();
  watched.most = 0;
  using executable = await backend.compile(program, linears, { contextLength: 8 });
  const operations = program.ops.flatMap((op) => (op.op === 'expertLinear' ? [op.linears] : []));
  const sizes = operations.map((ids) => ids.reduce((sum, id) => sum + linears[id]!.bytes, 0));
  expect(sizes).toHaveLength(2);
  // What lies between the experts of a buffer comes on top.
  expect(watched.most - held).toBeGreaterThanOrEqual(Math.max(...sizes));
  expect(watched.most - held).toBeLessThan(Math.max(...sizes) + 2048);
  expect(watched.most - held).toBeLessThan(sizes[0]! + sizes[1]!);
  executable[Symbol.dispose]();
  for (const linear of linears) linear[Symbol.dispose]();
  expect(backend.counts).toMatchObject({ buffers: 0, bytes: 0 });
});
