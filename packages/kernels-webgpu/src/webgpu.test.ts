// The provider: what it refuses, what it says where there is no GPU, its self-test, and what happens when a device is lost.
import { type Backend, isLowbitError, type LowbitError } from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import { needs } from '../../../fixtures/needs.ts';
import { tinyDecoder } from '../../../fixtures/tiny-decoder.ts';
import { noWebGpu, TEST_OPTIONS } from '../../../fixtures/webgpu.ts';
import { findAdapter, findGpu, requestDevice } from './adapter.ts';
import type { WebGpuBackend } from './backend.ts';
import type { GpuAdapter, GpuAdapterInfo, GpuDevice } from './gpu.ts';
import { selfTest } from './self-test.ts';
import { type WebGpuOptions, webgpu } from './webgpu.ts';

const missing = await noWebGpu();
const AFFINE = { kind: 'affine', levels: 16, group: 32, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' } as const;

async function ownDevice(): Promise<GpuDevice> {
  return requestDevice(await findAdapter(await findGpu(TEST_OPTIONS.dawn), { software: true }));
}

it.for<readonly [string, WebGpuOptions]>([
  ['device', { device: {} as GpuDevice }],
  ['adapter', { adapter: {} as GpuAdapter }],
  ['powerPreference', { powerPreference: 'most' as 'low-power' }],
  ['software', { software: 1 as unknown as boolean }],
  ['kvDtype', { kvDtype: 'f8' as 'f16' }],
  ['bindingLimit', { bindingLimit: 12 }],
  ['dawn', { dawn: 'backend=vulkan' as unknown as string[] }],
  ['features', { features: ['timestamp-query'] as unknown as [] }],
  ['features', { features: 'subgroups' as unknown as [] }],
  ['features', { features: null as unknown as [] }],
  ['onProblem', { onProblem: 1 as unknown as () => void }],
  ['name', { name: '' }],
  ['nothing', { nothing: 1 } as WebGpuOptions],
])('the option %s is checked', ([name, options]) => {
  expect(() => webgpu(options)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', message: expect.stringContaining(name) }));
});

it('says why a GPU cannot be used, and what to do', async () => {
  const limits = { maxBufferSize: 2 ** 28, maxStorageBufferBindingSize: 2 ** 27, maxStorageBuffersPerShaderStage: 4 };
  const adapter = {
    info: { description: 'an old GPU' },
    features: new Set<string>(),
    limits: { ...limits, maxComputeWorkgroupStorageSize: 16384, maxComputeInvocationsPerWorkgroup: 256 },
    requestDevice: () => Promise.reject(new Error('never asked')),
  } as unknown as GpuAdapter;
  const provider = webgpu({ adapter });
  expect(await provider.probe()).toMatchObject({
    ok: false,
    reason: expect.stringMatching(/an old GPU has maxStorageBuffersPerShaderStage 4/),
  });
  await expect(provider.open()).rejects.toMatchObject({ code: 'ERR_BACKEND_UNAVAILABLE', details: { reason: 'LIMIT' } });
});

it('computes on the CPU only if told to', async (context) => {
  needs(context, 'webgpu', missing === undefined, missing ?? '');
  const { software, ...rest } = TEST_OPTIONS;
  const allowed = await webgpu(TEST_OPTIONS).probe();
  const probe = await webgpu(rest).probe();
  if (allowed.ok && /CPU/.test(allowed.detail)) expect(probe).toMatchObject({ ok: false, hint: expect.stringMatching(/software: true/) });
  else expect(probe).toMatchObject({ ok: true });
});

it('passes its self-test, and finds a GPU that computes something else', async (context) => {
  needs(context, 'webgpu', missing === undefined, missing ?? '');
  await using backend = (await webgpu({ ...TEST_OPTIONS, selfTest: true }).open()) as WebGpuBackend;
  expect(backend.allocated()).toBe(0);
  // Tiles, six kernels more, are for GPUs alone: SwiftShader compiles them for longer than a page should wait.
  const { length } = backend.device.features.filter((name) => name === 'software');
  expect(backend.counts.pipelines).toBe(length > 0 ? 17 : 23);
  // The real backend, but every weight is prepared with its scales off by a little.
  const off = new Proxy(backend, {
    get(target, key) {
      if (key !== 'prepare') {
        const value = Reflect.get(target, key);
        return typeof value === 'function' ? value.bind(target) : value;
      }
      return ((weight, options) => {
        const scale = weight.parts.scale;
        if (scale?.dtype !== 'f32') return target.prepare(weight, options);
        const data = new Uint8Array(Float32Array.from(new Float32Array(scale.data.slice().buffer), (value) => value * 1.01).buffer);
        return target.prepare({ ...weight, parts: { ...weight.parts, scale: { ...scale, data } } }, options);
      }) satisfies Backend['prepare'];
    },
  });
  await expect(selfTest(off)).rejects.toMatchObject({ code: 'ERR_BACKEND_UNAVAILABLE', details: { reason: 'WRONG_NUMBERS' } });
});

/** A device that has `subgroups`, and does with the text of kernels that use them as it likes. */
function spoiled(real: GpuDevice, spoil: (code: string) => string): GpuDevice {
  return new Proxy(real, {
    get(target, key) {
      const value = Reflect.get(target, key);
      if (key === 'createShaderModule') {
        return ({ code, ...rest }: { readonly code: string }) =>
          target.createShaderModule({ ...rest, code: code.includes('enable subgroups;') ? spoil(code) : code });
      }
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

describe('a feature of the GPU', () => {
  it.for<readonly [string, (code: string) => string, RegExp]>([
    [
      'computes wrong numbers',
      (code) => code.replaceAll('return subgroupAdd(value);', 'return subgroupAdd(value) * 1.05;'),
      /wrong numbers/,
    ],
    ['does not compile', (code) => `${code}\nfn broken() -> u32 { return 1.5; }`, /subgroups: .+/],
  ])('that %s is not used, and the backend says so', async ([, spoil, why], context) => {
    needs(context, 'webgpu', missing === undefined, missing ?? '');
    const real = await ownDevice();
    needs(context, 'subgroups', real.features.has('subgroups'), 'the adapter has no subgroups');
    const problems: LowbitError[] = [];
    const provider = webgpu({
      ...{ device: spoiled(real, spoil), features: ['subgroups'], software: true, selfTest: true },
      onProblem: (problem) => problems.push(problem),
    });
    expect(await provider.probe()).toMatchObject({ ok: true, detail: expect.stringMatching(/uses subgroups$/) });
    await using backend = await provider.open();
    expect(backend.device.features).not.toContain('subgroups');
    expect(problems).toHaveLength(1);
    expect(problems[0]).toMatchObject({ code: 'ERR_DEVICE', details: { reason: 'FEATURE', features: ['subgroups'] } });
    expect(problems[0]!.message).toMatch(why);
    expect(problems[0]!.hint).toContain('without subgroups');
    const probe = await provider.probe();
    expect(probe).toMatchObject({ ok: true, detail: expect.stringMatching(/is used without subgroups/) });
    expect(probe).toMatchObject({ detail: expect.not.stringContaining('uses subgroups') });
    real.destroy();
  });

  it.for<readonly [string, Partial<GpuAdapterInfo>, WebGpuOptions, RegExp]>([
    ['all of 4 are not used', { subgroupMaxSize: 4 }, {}, /; uses shader-f16$/],
    ['all of 4 are used where the caller names them', { subgroupMaxSize: 4 }, { features: ['subgroups'] }, /; uses subgroups$/],
    ['of up to 8 are used', { subgroupMaxSize: 8 }, {}, /; uses subgroups and shader-f16$/],
    ['of a size that the adapter does not say are used', {}, {}, /; uses subgroups and shader-f16$/],
  ])('subgroups: %s', async ([, info, options, uses]) => {
    const limits = { maxBufferSize: 2 ** 28, maxStorageBufferBindingSize: 2 ** 27, maxStorageBuffersPerShaderStage: 8 };
    const adapter: GpuAdapter = {
      info: { description: 'a GPU', ...info },
      features: new Set(['subgroups', 'shader-f16']),
      limits: { ...limits, maxComputeWorkgroupStorageSize: 16384, maxComputeInvocationsPerWorkgroup: 256 },
      requestDevice: () => Promise.reject(new Error('never asked')),
    };
    expect(await webgpu({ adapter, ...options }).probe()).toMatchObject({ ok: true, detail: expect.stringMatching(uses) });
  });

  it('that does not pay on the adapter is not used, unless the caller names it', async (context) => {
    needs(context, 'webgpu', missing === undefined, missing ?? '');
    const { features, ...rest } = TEST_OPTIONS;
    const { info, features: has } = await findAdapter(await findGpu(TEST_OPTIONS.dawn), { software: true });
    const pays = has.has('subgroups') && (info?.subgroupMaxSize ?? 8) >= 8;
    await using chosen = await webgpu(rest).open();
    expect(chosen.device.features.includes('subgroups')).toBe(pays);
    await using named = await webgpu({ ...rest, features: features! }).open();
    expect(named.device.features.includes('subgroups')).toBe(has.has('subgroups'));
  });

  it('can be left out', async (context) => {
    needs(context, 'webgpu', missing === undefined, missing ?? '');
    const without = webgpu({ ...TEST_OPTIONS, features: [] });
    expect(await without.probe()).toMatchObject({ ok: true, detail: expect.not.stringMatching(/subgroups|shader-f16/) });
    await using backend = await without.open();
    expect(backend.device.features.filter((name) => name !== 'software')).toEqual(['webgpu']);
  });
});

it('a lost device is an error that says so; another backend works', async (context) => {
  needs(context, 'webgpu', missing === undefined, missing ?? '');
  const run = async (device: GpuDevice, lose: () => void): Promise<unknown> => {
    await using backend = await webgpu({ ...TEST_OPTIONS, device }).open();
    const { program, weights } = tinyDecoder(AFFINE);
    const linears = [];
    for (const [i, { use }] of program.linears.entries()) linears.push(await backend.prepare(weights[i]!, { use }));
    using executable = await backend.compile(program, linears, { contextLength: 32 });
    const id = executable.open();
    await executable.step([{ id, tokens: Uint32Array.of(1) }]);
    const running = executable.step([{ id, tokens: Uint32Array.of(2) }]);
    lose();
    const outputs = await running;
    if (lose === idle) return outputs;
    // The copy may have come back before the loss: the next step cannot.
    await device.lost;
    return await executable.step([{ id, tokens: Uint32Array.of(3) }]);
  };
  const idle = (): void => {};
  const lost = await ownDevice();
  const error = await run(lost, () => lost.destroy()).catch((thrown: unknown) => thrown);
  expect(isLowbitError(error, 'ERR_DEVICE')).toBe(true);
  expect(error).toMatchObject({ details: { reason: 'DEVICE_LOST' }, hint: expect.stringMatching(/open another/) });
  const another = await ownDevice();
  expect(await run(another, idle)).toHaveProperty('logits');
  another.destroy();
});

it('a device of the caller is not destroyed, and every buffer on it is', async (context) => {
  needs(context, 'webgpu', missing === undefined, missing ?? '');
  const device = await ownDevice();
  const backend = (await webgpu({ ...TEST_OPTIONS, device }).open()) as WebGpuBackend;
  const { program, weights } = tinyDecoder(AFFINE, { experts: 3 });
  const linears = [];
  for (const [i, { use }] of program.linears.entries()) linears.push(await backend.prepare(weights[i]!, { use }));
  const executable = await backend.compile(program, linears, { contextLength: 32 });
  await executable.step([{ id: executable.open(), tokens: Uint32Array.of(1, 2) }], { largest: { logits: 2 } });
  backend.alloc({ dtype: 'f32', shape: [4] });
  expect(backend.counts.buffers).toBeGreaterThan(10);
  await backend[Symbol.asyncDispose]();
  expect(backend.counts).toMatchObject({ buffers: 0, bytes: 0 });
  let gone = false;
  device.lost.then(() => {
    gone = true;
  });
  await device.queue.onSubmittedWorkDone();
  expect(gone).toBe(false);
  device.destroy();
});
