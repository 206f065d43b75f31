// Where the addon comes from: a path that was given, else the build in this package's folder, else the package of this platform. What fails says what was
// tried and what to do at each.

import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { isLowbitError, LowbitError } from '@lowbit/core';
import { BINDING_ABI, BINDING_FUNCTIONS, type CpuAddon, type CpuBinding } from './binding.ts';
import { builtFor } from './built-for.node.ts';

const require = createRequire(import.meta.url);
const LOCAL_BUILD = fileURLToPath(new URL('../build/Release/lowbit_cpu.node', import.meta.url));

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
  return `@lowbit/kernels-cpu-${platform}-${arch}${libc}`;
}

function isMusl(): boolean {
  const { header } = process.report.getReport() as { readonly header?: { readonly glibcVersionRuntime?: string } };
  return header?.glibcVersionRuntime === undefined;
}

function messageOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0]!;
}

/** What keeps a module from being the addon; undefined if nothing. */
function flaw(loaded: unknown): string | undefined {
  const binding = loaded as Partial<CpuBinding> | null;
  const missing = BINDING_FUNCTIONS.filter((name) => typeof binding?.[name] !== 'function');
  if (missing.length > 0) return `it is not this addon: it lacks ${missing.join(', ')}`;
  if (binding?.abi !== BINDING_ABI) return `it is another version of the addon (${binding?.abi}, wanted ${BINDING_ABI})`;
  return undefined;
}

/** Throws ERR_BAD_ARGUMENT unless a binding that the caller brought has the functions that are called. */
export function checkBinding(binding: CpuAddon): CpuBinding {
  const problem = flaw(binding);
  if (problem === undefined) return binding as CpuBinding;
  throw new LowbitError('ERR_BAD_ARGUMENT', `cpu: the option binding cannot be used: ${problem}`, {
    hint: "Pass what require('.../lowbit_cpu.node') gives, of the same release, or a path to it.",
    details: { option: 'binding' },
  });
}

function attempt(rung: Rung['rung'], tried: string, remedy: string, load: (id: string) => unknown): CpuBinding | Rung {
  try {
    const loaded = load(tried);
    const problem = flaw(loaded);
    return problem === undefined ? (loaded as CpuBinding) : { rung, tried, problem, remedy };
  } catch (error) {
    return { rung, tried, problem: foreign(tried) ?? messageOf(error), remedy };
  }
}

/** That a file is for another machine, if it is. */
function foreign(id: string): string | undefined {
  const here = `${process.platform}-${process.arch}`;
  let file = id;
  try {
    file = require.resolve(id);
  } catch {
    // What is not there has another problem.
  }
  const other = builtFor(file);
  return other === undefined || other === here ? undefined : `it is built for ${other}, and this is ${here}`;
}

export interface LoadOptions {
  /** Takes the place of LOWBIT_CPU_ADDON and of the other rungs. */
  readonly path?: string | undefined;
  /** For tests: how modules are loaded. */
  readonly load?: ((id: string) => unknown) | undefined;
}

let loaded: CpuBinding | undefined;

/**
 * The addon. A path that is given (`path`, else LOWBIT_CPU_ADDON) is the only one tried: what was asked for is never replaced by something else.
 * Throws ERR_BACKEND_UNAVAILABLE with every rung, what went wrong there and the remedy (also in `details.rungs`).
 */
export function loadBinding({ path = process.env.LOWBIT_CPU_ADDON || undefined, load = require }: LoadOptions = {}): CpuBinding {
  const ours = load === require;
  if (path === undefined && loaded && ours) return loaded;
  const ways: (() => CpuBinding | Rung)[] =
    path !== undefined
      ? [() => attempt('path', path, 'Correct the path (option binding, or LOWBIT_CPU_ADDON), or leave it out.', load)]
      : [
          () =>
            attempt(
              'local build',
              LOCAL_BUILD,
              'Run npm install --no-save cmake-js node-addon-api node-api-headers, then node build-native.mjs in the folder of the package: it needs cmake, make or ninja, and a C++20 compiler.',
              load,
            ),
          () => attempt('platform package', platformPackage(), `Install ${platformPackage()}, if there is one for this platform.`, load),
        ];
  const rungs: Rung[] = [];
  for (const way of ways) {
    const result = way();
    if (!('rung' in result)) {
      if (path === undefined && ours) loaded = result;
      return result;
    }
    rungs.push(result);
  }
  throw new LowbitError(
    'ERR_BACKEND_UNAVAILABLE',
    `the addon of @lowbit/kernels-cpu could not be loaded:\n${rungs.map(({ rung, tried, problem, remedy }) => `  ${rung}: ${tried}: ${problem}. ${remedy}`).join('\n')}`,
    { hint: 'Follow one of the remedies, or use another backend: referenceBackend() of @lowbit/core runs everywhere.', details: { rungs } },
  );
}

/** The message of a failure to load, for `probe`. */
export function whyNot(error: unknown): { readonly reason: string; readonly hint?: string } {
  if (!isLowbitError(error)) return { reason: messageOf(error) };
  return error.hint === undefined ? { reason: error.message } : { reason: error.message, hint: error.hint };
}
