// Why a GPU cannot be used: each reason that the README lists, with the adapter's name where there is one, and what to do.
import { isLowbitError } from '@lowbit/core';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { findAdapter, findGpu, requestDevice } from './adapter.ts';
import type { Gpu, GpuAdapter } from './gpu.ts';
import { webgpu } from './webgpu.ts';

const LIMITS = {
  ...{ maxBufferSize: 2 ** 28, maxStorageBufferBindingSize: 2 ** 27, maxStorageBuffersPerShaderStage: 8 },
  ...{ maxComputeWorkgroupStorageSize: 16384, maxComputeInvocationsPerWorkgroup: 256 },
};

function adapterOf(more: Partial<GpuAdapter>): GpuAdapter {
  const requestDevice = () => Promise.reject(new Error('the GPU is busy'));
  return { info: { description: 'GPU of a test' }, features: new Set<string>(), limits: LIMITS, requestDevice, ...more } as GpuAdapter;
}

const gpuOf = (requestAdapter: () => Promise<GpuAdapter | null>): Gpu => ({ requestAdapter }) as Gpu;

/** What it rejects with: an error of the backend, with its reason, what it says and what to do. */
async function refusal(promise: Promise<unknown>): Promise<{ readonly reason: unknown; readonly message: string; readonly hint: string }> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!isLowbitError(error, 'ERR_BACKEND_UNAVAILABLE')) throw new Error(`not refused, but ${String(error)}`);
  return { reason: error.details?.reason, message: error.message, hint: error.hint ?? '' };
}

afterEach(() => vi.unstubAllGlobals());

describe('an adapter', () => {
  it.for([false, true])('that is not there, or on the block list, is said to be missing (in a browser: %s)', async (browser) => {
    if (browser) vi.stubGlobal('process', undefined);
    const { reason, message, hint } = await refusal(
      findAdapter(
        gpuOf(async () => null),
        { software: false },
      ),
    );
    expect(reason).toBe('NO_ADAPTER');
    expect(message).toMatch(/no GPU, no driver .* or it is on the block list/);
    expect(hint).toMatch(browser ? /chrome:\/\/gpu .*hardware acceleration/ : /Install a Vulkan driver/);
  });

  it('whose search fails is missing, too, with what WebGPU said', async () => {
    const gpu = gpuOf(() => Promise.reject(new Error('blocklisted')));
    expect(await refusal(findAdapter(gpu, { software: false }))).toMatchObject({
      reason: 'NO_ADAPTER',
      message: expect.stringMatching(/blocklisted/),
    });
  });

  it('in software is refused by name, and taken where the caller allows it', async () => {
    const adapter = adapterOf({ info: { description: 'SwiftShader Device' } });
    const gpu = gpuOf(async () => adapter);
    const refused = await refusal(findAdapter(gpu, { software: false }));
    expect(refused).toMatchObject({ reason: 'SOFTWARE_ADAPTER', message: expect.stringMatching(/SwiftShader Device/) });
    expect(refused.hint).toMatch(/software: true/);
    expect(await findAdapter(gpu, { software: true })).toBe(adapter);
  });

  it('that gives no device is named', async () => {
    const refused = await refusal(requestDevice(adapterOf({})));
    expect(refused).toMatchObject({
      reason: 'NO_DEVICE',
      message: expect.stringMatching(/GPU of a test gives no device: the GPU is busy/),
    });
    expect(refused.hint).toMatch(/Close other pages/);
    expect(await refusal(webgpu({ adapter: adapterOf({}) }).open())).toMatchObject({ reason: 'NO_DEVICE' });
  });

  it.for(['maxStorageBuffersPerShaderStage', 'maxComputeInvocationsPerWorkgroup', 'maxComputeWorkgroupStorageSize'])(
    'with too little %s is named with its limit',
    async (name) => {
      const limits = { ...LIMITS, [name]: 1 };
      const refused = await refusal(requestDevice(adapterOf({ limits } as Partial<GpuAdapter>)));
      expect(refused).toMatchObject({ reason: 'LIMIT', message: expect.stringContaining(`GPU of a test has ${name} 1`) });
    },
  );
});

describe('WebGPU', () => {
  it('is not in this browser', async () => {
    vi.stubGlobal('process', undefined);
    vi.stubGlobal('navigator', {});
    expect(await refusal(findGpu())).toMatchObject({ reason: 'NO_WEBGPU', hint: expect.stringMatching(/Chrome or Edge 113/) });
    expect(await webgpu().probe()).toMatchObject({ ok: false, reason: expect.stringMatching(/no WebGPU here/) });
  });

  it('is not in a page that is not served securely', async () => {
    vi.stubGlobal('process', undefined);
    vi.stubGlobal('navigator', {});
    vi.stubGlobal('isSecureContext', false);
    expect(await refusal(findGpu())).toMatchObject({ reason: 'INSECURE', hint: expect.stringMatching(/https/) });
  });

  it('is not in Node without the package', async () => {
    vi.doMock('webgpu', () => {
      throw new Error("Cannot find package 'webgpu'");
    });
    const refused = await refusal(findGpu(['never started']));
    vi.doUnmock('webgpu');
    expect(refused).toMatchObject({ reason: 'NO_PACKAGE', hint: expect.stringMatching(/npm install webgpu/) });
  });

  it('does not start', async () => {
    vi.doMock('webgpu', () => ({
      create: () => {
        throw new Error('no Vulkan loader');
      },
    }));
    const refused = await refusal(findGpu(['never started']));
    vi.doUnmock('webgpu');
    expect(refused).toMatchObject({ reason: 'NO_DAWN', message: expect.stringMatching(/no Vulkan loader/) });
  });
});
