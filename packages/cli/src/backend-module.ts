// A backend of a third party: a module named by its path or its package, looked up where the user stands, not where lowbit is installed.

import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { isAbsolute, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { type BackendProvider, LowbitError } from '@lowbit/core';
import type { BackendSettings } from './backends.ts';

type Factory = (settings: BackendSettings) => BackendProvider | Promise<BackendProvider>;

const HINT = 'A backend is auto, cpu, reference, a path such as ./my-backend.mjs, or the name of an installed package.';

/** Packages of this project, by what people call their backends. */
const OWN: ReadonlyMap<string, string> = new Map([
  ['webgpu', '@lowbit/kernels-webgpu'],
  ['cuda', '@lowbit/kernels-cuda'],
]);

/** Imports the module and gives its backend. Throws as `findBackends` says. */
export async function backendOfModule(name: string, settings: BackendSettings, from: string): Promise<BackendProvider> {
  const details = { backend: name, from };
  let exported: unknown;
  try {
    exported = await import(/* @vite-ignore */ fileOf(name, from).href);
  } catch (cause) {
    if (cause instanceof LowbitError) throw cause;
    throw new LowbitError('ERR_BACKEND_UNAVAILABLE', `the module of backend ${name} could not be loaded: ${messageOf(cause)}`, {
      hint: 'See whether `node` can import it by itself, and whether what it needs is installed.',
      details,
      cause,
    });
  }
  const found = exportsOf(exported).find((value) => isProvider(value) || typeof value === 'function');
  const [setting] = Object.keys(settings);
  if (isProvider(found)) {
    if (setting === undefined) return found;
    throw new LowbitError('ERR_BAD_ARGUMENT', `backend ${name} is exported as it is, and takes no setting ${setting}`, {
      hint: 'Leave the setting out, or let the module export a function of the settings.',
      details: { ...details, setting },
    });
  }
  const made: unknown = typeof found === 'function' ? await (found as Factory)(settings) : undefined;
  if (isProvider(made)) return made;
  throw new LowbitError('ERR_BAD_ARGUMENT', `${name} ${found === undefined ? 'exports' : 'makes'} no backend`, {
    hint: 'Its default export, or the export `backend`, is to be a BackendProvider (spec 1, name, probe, open) or a function that returns one.',
    details,
  });
}

/** Default first; modules of CommonJS have all of theirs in it. */
function exportsOf(module: unknown): readonly unknown[] {
  const { default: main, backend } = module as { readonly default?: unknown; readonly backend?: unknown };
  const inner = (typeof main === 'object' && main !== null ? main : {}) as { readonly default?: unknown; readonly backend?: unknown };
  return [main, backend, inner.default, inner.backend];
}

function isProvider(value: unknown): value is BackendProvider {
  const { spec, name, probe, open } = (typeof value === 'object' && value !== null ? value : {}) as Partial<Record<string, unknown>>;
  return spec === 1 && typeof name === 'string' && name !== '' && typeof probe === 'function' && typeof open === 'function';
}

/** The file of a path or a package. Throws ERR_NOT_FOUND. */
function fileOf(name: string, from: string): URL {
  const isPath = /^\.{1,2}(?:[\\/]|$)/.test(name) || isAbsolute(name) || name.startsWith('file:');
  if (isPath) {
    const file = name.startsWith('file:') ? fileURLToPath(name) : resolve(from, name);
    if (existsSync(file)) return pathToFileURL(file);
    throw new LowbitError('ERR_NOT_FOUND', `there is no backend ${name}: the file does not exist`, {
      hint: HINT,
      details: { backend: name, from },
    });
  }
  const own = OWN.get(name);
  if (own !== undefined) {
    throw new LowbitError('ERR_NOT_FOUND', `there is no backend '${name}': its package is ${own}`, {
      hint: `Install ${own} and pass --backend ${own}.`,
      details: { backend: name, from },
    });
  }
  const require = createRequire(join(from, 'index.js'));
  try {
    return pathToFileURL(require.resolve(name));
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    const file = code === 'ERR_PACKAGE_PATH_NOT_EXPORTED' ? moduleEntry(name, require.resolve.paths(name) ?? []) : undefined;
    if (file !== undefined) return pathToFileURL(file);
    const near = existsSync(resolve(from, name)) ? `There is a file of that name: write ./${name}. ` : '';
    throw new LowbitError('ERR_NOT_FOUND', `there is no backend '${name}', and no package of that name is installed here`, {
      hint: near + HINT,
      details: { backend: name, from },
      cause,
    });
  }
}

/** What the `exports` of a package give to `import` alone, which `require.resolve` does not see. */
function moduleEntry(name: string, folders: readonly string[]): string | undefined {
  const parts = name.split('/');
  const length = name.startsWith('@') ? 2 : 1;
  const home = folders.map((folder) => join(folder, ...parts.slice(0, length))).find((folder) => existsSync(join(folder, 'package.json')));
  if (home === undefined) return undefined;
  const { exports } = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8')) as { readonly exports?: unknown };
  const subpath = ['.', ...parts.slice(length)].join('/');
  const direct = (exports as Record<string, unknown> | undefined)?.[subpath] ?? (subpath === '.' ? exports : undefined);
  const target = conditional(direct);
  return target === undefined ? undefined : join(home, target);
}

function conditional(target: unknown): string | undefined {
  if (typeof target === 'string') return target;
  if (typeof target !== 'object' || target === null) return undefined;
  for (const [condition, inner] of Object.entries(target)) {
    if (!['node', 'import', 'default'].includes(condition)) continue;
    const found = conditional(inner);
    if (found !== undefined) return found;
  }
  return undefined;
}

function messageOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0]!;
}
