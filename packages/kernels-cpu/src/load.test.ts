import { LowbitError } from '@lowbit/core';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { BINDING_ABI, BINDING_FUNCTIONS } from './binding.ts';
import { cpu } from './cpu.ts';
import { loadBinding, platformPackage, type Rung } from './load.node.ts';

afterEach(() => vi.unstubAllEnvs());

const whole = { abi: BINDING_ABI, ...Object.fromEntries(BINDING_FUNCTIONS.map((name) => [name, () => ['scalar']])) };
const absent = (id: string): never => {
  throw new Error(`Cannot find module '${id}'\nRequire stack:\n- somewhere`);
};

/** What loading throws. */
function failure(options: Parameters<typeof loadBinding>[0]): LowbitError & { readonly details: { readonly rungs: readonly Rung[] } } {
  try {
    loadBinding(options);
  } catch (error) {
    return error as ReturnType<typeof failure>;
  }
  throw new Error('it was loaded');
}

describe('loadBinding', () => {
  it('tries the local build, then the package of the platform', () => {
    const tried: string[] = [];
    const found = loadBinding({
      load: (id) => {
        tried.push(id);
        return id.startsWith('@lowbit/') ? whole : absent(id);
      },
    });
    expect(found).toBe(whole);
    expect(tried).toEqual([expect.stringMatching(/build.Release.lowbit_cpu\.node$/), platformPackage()]);
    expect(platformPackage('darwin', 'arm64')).toBe('@lowbit/kernels-cpu-darwin-arm64');
    expect(platformPackage('linux', 'x64')).toMatch(/^@lowbit\/kernels-cpu-linux-x64-(gnu|musl)$/);
  });

  it('says of every rung what was tried, what went wrong and what to do', () => {
    const { code, message, details, hint } = failure({ load: absent });
    expect(code).toBe('ERR_BACKEND_UNAVAILABLE');
    expect(details.rungs.map(({ rung }) => rung)).toEqual(['local build', 'platform package']);
    for (const { tried, problem, remedy } of details.rungs) {
      expect(message).toContain(`${tried}: ${problem}. ${remedy}`);
      expect(problem).not.toContain('\n');
    }
    expect(message).toContain('npm install --no-save cmake-js node-addon-api node-api-headers');
    expect(message).toContain('node build-native.mjs');
    expect(message).toContain(`Install ${platformPackage()}`);
    expect(hint).toContain('referenceBackend');
  });

  it('takes a path that is given and never anything else in its place', () => {
    vi.stubEnv('LOWBIT_CPU_ADDON', '/nowhere/lowbit.node');
    const tried: string[] = [];
    const load = (id: string): never => {
      tried.push(id);
      return absent(id);
    };
    expect(failure({ load }).message).toContain('LOWBIT_CPU_ADDON');
    expect(failure({ load, path: '/elsewhere/lowbit.node' }).details.rungs).toHaveLength(1);
    expect(tried).toEqual(['/nowhere/lowbit.node', '/elsewhere/lowbit.node']);
  });

  it('refuses what is another module or another version', () => {
    expect(failure({ path: 'x', load: () => ({}) }).message).toContain('it is not this addon: it lacks isas');
    expect(failure({ path: 'x', load: () => ({ ...whole, abi: 0 }) }).message).toContain('another version');
  });
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
