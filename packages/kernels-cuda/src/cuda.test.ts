// What `probe` and `open` say of machines that lack something.
import { isLowbitError, type LowbitError } from '@lowbit/core';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../../../fixtures/fake-cuda.ts';
import { needs } from '../../../fixtures/needs.ts';
import { type CudaOptions, cuda } from './cuda.ts';

afterEach(() => vi.unstubAllEnvs());

describe('cuda', () => {
  it('refuses options that cannot be', () => {
    const bad: readonly unknown[] = [
      { device: -1 },
      { device: 0.5 },
      { kvDtype: 'f8' },
      { precision: 'f16' },
      { driver: '' },
      { name: '' },
      { codecs: 1 },
      { binding: {} },
      { threads: 2 },
    ];
    for (const options of bad) {
      expect(() => cuda(options as CudaOptions), JSON.stringify(options)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
    }
  });

  it('says that there is no addon, when it is asked', async () => {
    const provider = cuda({ binding: '/nowhere/lowbit_cuda.node' });
    expect(await provider.probe()).toMatchObject({ ok: false, reason: expect.stringContaining('/nowhere/lowbit_cuda.node') });
    await expect(provider.open()).rejects.toMatchObject({ code: 'ERR_BACKEND_UNAVAILABLE' });
  });
});

describe('a machine that lacks something', () => {
  /** What probe and open say, which must be the same. */
  async function refusal(options: CudaOptions, settings: Parameters<typeof pretend>[0] = {}): Promise<LowbitError> {
    pretend(settings);
    const provider = cuda({ driver: FAKE_DRIVER, ...options });
    const probe = await provider.probe();
    pretend(settings);
    const error = await provider.open().then(
      () => undefined,
      (reason: unknown) => reason,
    );
    if (!isLowbitError(error)) throw new Error(`open gave ${String(error)}`);
    expect(probe).toEqual({ ok: false, reason: error.message, hint: error.hint });
    expect(error.code).toBe('ERR_BACKEND_UNAVAILABLE');
    expect(error.hint).not.toBe('');
    return error;
  }

  const here = (context: { skip(reason: string): void }): void =>
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');

  it('a driver', async (context) => {
    here(context);
    const error = await refusal({ driver: '/nowhere/libcuda.so.1' });
    expect(error).toMatchObject({ details: { reason: 'NO_DRIVER' }, message: expect.stringContaining('/nowhere/libcuda.so.1') });
    expect(error.hint).toContain('NVIDIA driver');
  });

  it('a driver of the system, which is what is asked by default', async (context) => {
    here(context);
    vi.stubEnv('LOWBIT_CUDA_DRIVER', '');
    const probe = await cuda().probe();
    // On a machine with a GPU this is no test of the refusal.
    if (!probe.ok) expect(probe.reason).toMatch(/no NVIDIA driver|driver|GPU|kernels/);
    vi.stubEnv('LOWBIT_CUDA_DRIVER', FAKE_DRIVER);
    pretend();
    expect(await cuda().probe()).toMatchObject({ ok: true });
  });

  it('the functions that a driver has today', async (context) => {
    here(context);
    const addon = FAKE_DRIVER.replace(/liblowbit_fake_cuda\.\w+$/, 'lowbit_cuda.node'); // a library that is none
    expect(await refusal({ driver: addon })).toMatchObject({
      details: { reason: 'DRIVER_TOO_OLD' },
      message: expect.stringContaining('cuInit'),
    });
  });

  it('a driver that is new enough', async (context) => {
    here(context);
    const error = await refusal({}, { version: 10020 });
    expect(error).toMatchObject({ details: { reason: 'DRIVER_TOO_OLD' } });
    expect(error.message).toMatch(/CUDA 10\.2, the kernels need 1[1-9]\.0 or later/);
  });

  it('a GPU, or the one that was asked for', async (context) => {
    here(context);
    expect(await refusal({}, { devices: 0 })).toMatchObject({ details: { reason: 'NO_DEVICE' } });
    const error = await refusal({ device: 2 }, { devices: 2 });
    expect(error).toMatchObject({ details: { reason: 'NO_DEVICE' }, message: expect.stringContaining('no device 2: the driver sees 2') });
    pretend({ devices: 2 });
    expect(await cuda({ driver: FAKE_DRIVER, device: 1 }).probe()).toMatchObject({
      ok: true,
      detail: expect.stringContaining('emulated GPU 1'),
    });
  });

  it('a GPU that is new enough', async (context) => {
    here(context);
    expect(await refusal({}, { capability: 75 })).toMatchObject({
      details: { reason: 'DEVICE_TOO_OLD' },
      message: expect.stringContaining('compute capability 7.5'),
    });
  });

  it('memory', async (context) => {
    here(context);
    const full = await refusal({}, { memory: 2 ** 20 });
    expect(full).toMatchObject({ details: { reason: 'OUT_OF_MEMORY' }, message: expect.stringContaining('1048576 bytes are free') });
    const none = await refusal({}, { fail: 'cuDevicePrimaryCtxRetain/2' });
    expect(none).toMatchObject({ details: { reason: 'OUT_OF_MEMORY' }, message: expect.stringContaining('CUDA_ERROR_OUT_OF_MEMORY') });
    expect(none.hint).toContain('Another process');
  });

  it('a driver of its own, as a forked process does, or a GPU that answers', async (context) => {
    here(context);
    const forked = await refusal({}, { fail: 'cuInit/3' });
    expect(forked).toMatchObject({ details: { reason: 'NOT_INITIALIZED' }, hint: expect.stringContaining('forked') });
    const gone = await refusal({}, { fail: 'cuDevicePrimaryCtxRetain/46' });
    expect(gone).toMatchObject({ details: { reason: 'DEVICE_GONE' } });
  });

  it('kernels for the GPU', async (context) => {
    here(context);
    pretend({ fail: 'cuModuleLoadData/209' });
    const error = await cuda({ driver: FAKE_DRIVER })
      .open()
      .catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: 'ERR_BACKEND_UNAVAILABLE', details: { reason: 'NO_KERNELS' } });
  });

  it('nothing', async (context) => {
    here(context);
    pretend({ capability: 86, version: 13010 });
    const probe = await cuda({ driver: FAKE_DRIVER }).probe();
    expect(probe).toMatchObject({ ok: true });
    expect(probe.ok && probe.detail).toMatch(/^emulated GPU 0: sm_86, driver of CUDA 13\.1, 8\.0 of 8\.0 GiB free, /);
    await using backend = await cuda({ driver: FAKE_DRIVER }).open();
    expect(backend.device).toEqual({ label: 'emulated GPU 0', memory: 8 * 2 ** 30, features: ['sm_86', 'cuda 13.1', 'exact'] });
    await using fast = await cuda({ driver: FAKE_DRIVER, precision: 'fast' }).open();
    expect(fast.device.features).toContain('fast');
  });
});
