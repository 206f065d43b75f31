// Modules of third parties: named by a path or a package, looked up where the user stands, not where lowbit is installed. They are executed, so only what a
// person names is ever looked up: never a name that a model folder brings.

import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, isAbsolute, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { type ErrorCode, isLowbitError, LowbitError } from '@lowbit/core';

/** What is looked for, for messages. */
export interface Wanted {
  /** `backend`, `method`: also the name of the export beside the default one. */
  readonly what: string;
  /** What can be named, as a sentence. */
  readonly hint: string;
  /** For a module that fails while it is loaded. */
  readonly broken: ErrorCode;
  /** Packages of this project, by what people call them. */
  readonly own?: ReadonlyMap<string, string>;
}

/** Imports a module. Its exports: the default one, that of the name, and the same of a CommonJS module. Throws ERR_NOT_FOUND, and `broken`. */
export async function importModule(name: string, from: string, wanted: Wanted): Promise<readonly unknown[]> {
  const details = { [wanted.what]: name, from };
  try {
    return exportsOf(await import(/* @vite-ignore */ fileOf(name, from, wanted).href), wanted.what);
  } catch (cause) {
    if (isLowbitError(cause)) throw cause;
    throw new LowbitError(wanted.broken, `the module of ${wanted.what} ${name} could not be loaded: ${messageOf(cause)}`, {
      hint: 'See whether `node` can import it by itself, and whether what it needs is installed.',
      details,
      cause,
    });
  }
}

/** Whether a text is a path, and not a bare word. */
export function isPath(name: string): boolean {
  return /^\.{1,2}(?:[\\/]|$)/.test(name) || isAbsolute(name) || name.startsWith('file:');
}

/** Default first; modules of CommonJS have all of theirs in it. */
function exportsOf(module: unknown, name: string): readonly unknown[] {
  const outer = module as { readonly default?: unknown } & Readonly<Record<string, unknown>>;
  const inner = (typeof outer.default === 'object' && outer.default !== null ? outer.default : {}) as typeof outer;
  return [outer.default, outer[name], inner.default, inner[name]];
}

/** The file of a path or a package. Throws ERR_NOT_FOUND. */
function fileOf(name: string, from: string, { what, hint, own }: Wanted): URL {
  const details = { [what]: name, from };
  if (isPath(name)) {
    const file = name.startsWith('file:') ? fileURLToPath(name) : resolve(from, name);
    if (existsSync(file)) return pathToFileURL(existsSync(join(file, 'package.json')) ? entryOf(file) : file);
    throw new LowbitError('ERR_NOT_FOUND', `there is no ${what} ${name}: the file does not exist`, { hint, details });
  }
  const ours = own?.get(name);
  if (ours !== undefined) {
    throw new LowbitError('ERR_NOT_FOUND', `there is no ${what} '${name}': its package is ${ours}`, {
      hint: `Install ${ours} and pass --${what} ${ours}.`,
      details,
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
    throw new LowbitError('ERR_NOT_FOUND', `there is no ${what} '${name}', and no package of that name is installed here`, {
      hint: near + hint,
      details,
      cause,
    });
  }
}

/** What `import` of a package in that folder gives. */
function entryOf(folder: string): string {
  const entry = moduleEntry(basename(folder), [dirname(folder)]);
  if (entry !== undefined) return entry;
  try {
    return createRequire(join(folder, 'index.js')).resolve(folder);
  } catch {
    return folder; // importing it says what is wrong
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
