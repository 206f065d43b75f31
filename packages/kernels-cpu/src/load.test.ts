import { LowbitError } from '@lowbit/core';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { BINDING_ABI, BINDING_FUNCTIONS } from './binding.ts';
import { cpu } from './cpu.ts';
import { addon, platformPackage } from './load.node.ts';

afterEach(() => vi.unstubAllEnvs());

const whole = { abi: BINDING_ABI, ...Object.fromEntries(BINDING_FUNCTIONS.map((name) => [name, () => ['scalar']])) };

it('looks in its own places', () => {
  const tried: string[] = [];
  const load = (id: string): never => {
    tried.push(id);
    throw new Error(`Cannot find module '${id}'`);
  };
  expect(() => addon.load({ load })).toThrow(/the addon of @lowbit\/kernels-cpu could not be loaded:\n.*node build-native\.mjs/);
  expect(tried).toEqual([expect.stringMatching(/kernels-cpu.build.Release.lowbit_cpu\.node$/), platformPackage()]);
  expect(platformPackage()).toMatch(/^@lowbit\/kernels-cpu-/);
});

describe('cpu', () => {
  it('loads nothing before it is probed, and a probe tells instead of throwing', async () => {
    vi.stubEnv('LOWBIT_CPU_ADDON', '/nowhere/lowbit.node');
    const provider = cpu();
    expect(await provider.probe()).toEqual({
      ok: false,
      reason: expect.stringContaining('/nowhere/lowbit.node'),
      hint: expect.any(String),
    });
    await expect(provider.open()).rejects.toMatchObject({ code: 'ERR_BACKEND_UNAVAILABLE' });
  });

  it('takes a binding in place of a file', async () => {
    expect(await cpu({ binding: whole as never, threads: 1 }).probe()).toEqual({
      ok: true,
      detail: expect.stringMatching(/scalar, one thread, exact$/),
    });
    expect(() => cpu({ binding: {} as never })).toThrow(LowbitError);
  });

  it.each(['avx512', 'avx2', 'i8mm', 'dotprod', 'neon'] as const)('names %s where the processor lacks it, and what it has', async (isa) => {
    const provider = cpu({ binding: whole as never, isa });
    expect(await provider.probe()).toMatchObject({
      ok: false,
      reason: expect.stringContaining(isa),
      hint: expect.stringContaining('scalar'),
    });
    await expect(provider.open()).rejects.toMatchObject({ code: 'ERR_BACKEND_UNAVAILABLE', details: { usable: ['scalar'] } });
  });

  it.each([
    ...[{ threads: 0 }, { threads: 1.5 }, { threads: 2000 }, { isa: 'sse9' }, { precision: 'low' }],
    ...[null, 5, { Threads: 2 }, { name: '' }, { name: 5 }, { codecs: 5 }],
  ])('refuses %o', (options) => {
    expect(() => cpu(options as never)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', hint: expect.any(String) }));
  });
});
