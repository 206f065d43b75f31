// Where the addon comes from: a path that was given, else the build in this package's folder, else the package of this platform. What fails says what was
// tried and what to do at each.

import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { isLowbitError, LowbitError } from '@lowbit/core';
import { BINDING_ABI, BINDING_FUNCTIONS, type CudaBinding } from './binding.ts';

const require = createRequire(import.meta.url);
const LOCAL_BUILD = fileURLToPath(new URL('../build/Release/lowbit_cuda.node', import.meta.url));

/** One way to the addon that led nowhere. */
export interface Rung {
  readonly rung: 'path' | 'local build' | 'platform package';
  readonly tried: string;
  readonly problem: string;
  readonly remedy: string;
}

/** Name of the package that brings the addon for a platform. */
export function platformPackage(platform: string = process.platform, arch: string = process.arch): string {
  const libc = platform === 'linux' ? (isMusl() ? '-musl' : '-gnu') : '';
  return `@lowbit/kernels-cuda-${platform}-${arch}${libc}`;
}

function isMusl(): boolean {
  const { header } = process.report.getReport() as { readonly header?: { readonly glibcVersionRuntime?: string } };
  return header?.glibcVersionRuntime === undefined;
}

/** The path of the driver that the environment names: for tests, and for drivers in places of their own. */
export function namedDriver(): string | undefined {
  return process.env.LOWBIT_CUDA_DRIVER || undefined;
}

function messageOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0]!;
}

/** What keeps a module from being the addon; undefined if nothing. */
function flaw(loaded: unknown): string | undefined {
  const binding = loaded as Partial<CudaBinding> | null;
  const missing = BINDING_FUNCTIONS.filter((name) => typeof binding?.[name] !== 'function');
  if (missing.length > 0) return `it is not this addon: it lacks ${missing.join(', ')}`;
  if (binding?.abi !== BINDING_ABI) return `it is another version of the addon (${binding?.abi}, wanted ${BINDING_ABI})`;
  return undefined;
}

/** Throws ERR_BAD_ARGUMENT unless a binding that the caller brought has the functions that are called. */
export function checkBinding(binding: CudaBinding): CudaBinding {
  const problem = flaw(binding);
  if (problem === undefined) return binding;
  throw new LowbitError('ERR_BAD_ARGUMENT', `cuda: the option binding cannot be used: ${problem}`, {
    hint: "Pass what require('.../lowbit_cuda.node') gives, of the same release, or a path to it.",
    details: { option: 'binding' },
  });
}

export interface LoadOptions {
  /** Takes the place of LOWBIT_CUDA_ADDON and of the other rungs. */
  readonly path?: string | undefined;
  /** For tests: how modules are loaded. */
  readonly load?: ((id: string) => unknown) | undefined;
}

/**
 * The addon. A path that is given (`path`, else LOWBIT_CUDA_ADDON) is the only one tried: what was asked for is never replaced by something else.
 * Throws ERR_BACKEND_UNAVAILABLE with every rung, what went wrong there and the remedy (also in `details.rungs`).
 */
export function loadBinding({ path = process.env.LOWBIT_CUDA_ADDON || undefined, load = require }: LoadOptions = {}): CudaBinding {
  const build =
    'Run node build-native.mjs in the folder of the package: it needs cmake, make or ninja, a C++20 compiler, and nvcc for the kernels.';
  const ways: readonly Omit<Rung, 'problem'>[] =
    path !== undefined
      ? [{ rung: 'path', tried: path, remedy: 'Correct the path (option binding, or LOWBIT_CUDA_ADDON), or leave it out.' }]
      : [
          { rung: 'local build', tried: LOCAL_BUILD, remedy: build },
          {
            rung: 'platform package',
            tried: platformPackage(),
            remedy: `Install ${platformPackage()}, if there is one for this platform.`,
          },
        ];
  const rungs: Rung[] = [];
  for (const way of ways) {
    try {
      const loaded = load(way.tried);
      const problem = flaw(loaded);
      if (problem === undefined) return loaded as CudaBinding;
      rungs.push({ ...way, problem });
    } catch (error) {
      rungs.push({ ...way, problem: messageOf(error) });
    }
  }
  throw new LowbitError(
    'ERR_BACKEND_UNAVAILABLE',
    `the addon of @lowbit/kernels-cuda could not be loaded:\n${rungs.map(({ rung, tried, problem, remedy }) => `  ${rung}: ${tried}: ${problem}. ${remedy}`).join('\n')}`,
    { hint: 'Follow one of the remedies, or use another backend: referenceBackend() of @lowbit/core runs everywhere.', details: { rungs } },
  );
}

/** The message of a failure to load or open, for `probe`. */
export function whyNot(error: unknown): { readonly reason: string; readonly hint?: string } {
  if (!isLowbitError(error)) return { reason: messageOf(error) };
  return error.hint === undefined ? { reason: error.message } : { reason: error.message, hint: error.hint };
}
