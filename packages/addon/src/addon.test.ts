import type { LowbitError } from '@lowbit/core';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Addon, type LoadOptions, platformPackage, type Rung, whyNot } from './addon.node.ts';

afterEach(() => vi.unstubAllEnvs());

type Binding = { readonly abi: number; readonly add: () => number; readonly take: () => number };
const addon = new Addon<Binding>({
  backend: 'made',
  package: '@lowbit/kernels-made',
  file: 'lowbit_made.node',
  from: import.meta.url,
  variable: 'LOWBIT_MADE_ADDON',
  abi: 7,
  functions: ['add', 'take'],
  build: 'Run node build-native.mjs.',
});
const whole = { abi: 7, add: () => 1, take: () => 2 };
const platform = platformPackage('@lowbit/kernels-made');
const absent = (id: string): never => {
  throw new Error(`Cannot find module '${id}'\nRequire stack:\n- somewhere`);
};

/** What loading throws. */
function failure(options: LoadOptions): LowbitError & { readonly details: { readonly rungs: readonly Rung[] } } {
  try {
    addon.load(options);
  } catch (error) {
    return error as ReturnType<typeof failure>;
  }
  throw new Error('it was loaded');
}

describe('an addon', () => {
  it('is tried as a local build, then as the package of the platform', () => {
    const tried: string[] = [];
    const load = (id: string): unknown => {
      tried.push(id);
      return id.startsWith('@lowbit/') ? whole : absent(id);
    };
    expect(addon.load({ load })).toBe(whole);
    expect(tried).toEqual([expect.stringMatching(/addon.build.Release.lowbit_made\.node$/), platform]);
    expect(platformPackage('@lowbit/kernels-made', 'darwin', 'arm64')).toBe('@lowbit/kernels-made-darwin-arm64');
    expect(platformPackage('@lowbit/kernels-made', 'win32', 'x64')).toBe('@lowbit/kernels-made-win32-x64');
    if (process.platform === 'linux') expect(platform).toMatch(/^@lowbit\/kernels-made-linux-.*-(gnu|musl)$/);
  });

  it('says of every rung what was tried, what went wrong and what to do', () => {
    const { code, message, details, hint } = failure({ load: absent });
    expect(code).toBe('ERR_BACKEND_UNAVAILABLE');
    expect(details.rungs.map(({ rung }) => rung)).toEqual(['local build', 'platform package']);
    for (const { tried, problem, remedy } of details.rungs) {
      expect(message).toContain(`${tried}: ${problem}. ${remedy}`);
      expect(problem).not.toContain('\n');
    }
    expect(message).toContain('Run node build-native.mjs.');
    expect(message).toContain(`Install ${platform}`);
    expect(hint).toContain('referenceBackend');
    expect(whyNot(failure({ load: absent }))).toEqual({ reason: message, hint });
  });

  it('is taken from a path that is given and never from anywhere else in its place', () => {
    vi.stubEnv('LOWBIT_MADE_ADDON', '/nowhere/lowbit.node');
    const tried: string[] = [];
    const load = (id: string): never => {
      tried.push(id);
      return absent(id);
    };
    expect(failure({ load }).message).toContain('LOWBIT_MADE_ADDON');
    expect(failure({ load, path: '/elsewhere/lowbit.node' }).details.rungs).toHaveLength(1);
    expect(tried).toEqual(['/nowhere/lowbit.node', '/elsewhere/lowbit.node']);
  });

  it('is refused where it is another module or another version', () => {
    expect(failure({ path: 'x', load: () => ({}) }).message).toContain('it is not this addon: it lacks add, take');
    expect(failure({ path: 'x', load: () => null }).message).toContain('it is not this addon: it lacks add, take');
    expect(failure({ path: 'x', load: () => ({ ...whole, abi: 0 }) }).message).toContain('another version of the addon (0, wanted 7)');
  });

  it('may be brought by the caller, if it is one', () => {
    expect(addon.check(whole)).toBe(whole);
    expect(() => addon.check({ abi: 7 })).toThrow(
      expect.objectContaining({
        code: 'ERR_BAD_ARGUMENT',
        message: 'made: the option binding cannot be used: it is not this addon: it lacks add, take',
      }),
    );
  });
});

it('whyNot takes the first line of what is no error of ours', () => {
  expect(whyNot(new Error('one\ntwo'))).toEqual({ reason: 'one' });
  expect(whyNot('text')).toEqual({ reason: 'text' });
});
