// Where packed weights are kept, and how much of the disk they may take.

import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { checkOptionNames, LowbitError } from '@lowbit/core';

/** The cache on disk of packed weights. */
export interface CacheOptions {
  /** Folder. Default: the variable LOWBIT_CACHE, else `lowbit/packed` where this system keeps caches; see docs/native-cpu.md. */
  readonly dir?: string;
  /** Most bytes on disk: the models used least recently go first. Default: the variable LOWBIT_CACHE_SIZE, else 20 GiB. */
  readonly maxBytes?: number;
}

export interface CacheSettings {
  /** Absolute. */
  readonly dir: string;
  readonly maxBytes: number;
}

const DEFAULT_BYTES = 20 * 2 ** 30;
const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  k: 1e3,
  m: 1e6,
  g: 1e9,
  t: 1e12,
  ki: 2 ** 10,
  mi: 2 ** 20,
  gi: 2 ** 30,
  ti: 2 ** 40,
};

type Env = Readonly<Record<string, string | undefined>>;

/** The folder that this system keeps caches of applications in. */
function systemFolder(env: Env, platform: string): string {
  if (platform === 'darwin') return join(homedir(), 'Library', 'Caches', 'lowbit', 'packed');
  if (platform === 'win32') return join(env.LOCALAPPDATA || join(homedir(), 'AppData', 'Local'), 'lowbit', 'Cache', 'packed');
  // A relative path in this variable is to be ignored, says the XDG specification.
  const base = env.XDG_CACHE_HOME?.startsWith('/') ? env.XDG_CACHE_HOME : join(homedir(), '.cache');
  return join(base, 'lowbit', 'packed');
}

function sizeOf(text: string): number {
  const [, digits, unit] = /^\s*([0-9.]+)\s*([kmgt]i?)?b?\s*$/i.exec(text) ?? [];
  const bytes = Number(digits) * (UNITS[(unit ?? '').toLowerCase()] ?? Number.NaN);
  if (bytes >= 0) return bytes;
  throw new LowbitError('ERR_BAD_ARGUMENT', `LOWBIT_CACHE_SIZE cannot be ${JSON.stringify(text)}`, {
    hint: 'Write a size such as 50GB or 512MiB.',
    details: { variable: 'LOWBIT_CACHE_SIZE', value: text },
  });
}

function badOption(option: string, value: unknown, hint: string): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', `cache: ${option} cannot be ${String(value)}`, { hint, details: { option, value } });
}

/** Place and size, from options, else variables, else what the system says. Throws ERR_BAD_ARGUMENT for what cannot be. */
export function cacheSettings(options: CacheOptions = {}, env: Env = process.env, platform: string = process.platform): CacheSettings {
  const { dir, maxBytes } = options;
  if (dir !== undefined && (typeof dir !== 'string' || dir === '')) throw badOption('dir', dir, 'Pass the path of a folder.');
  if (maxBytes !== undefined && !(typeof maxBytes === 'number' && maxBytes >= 0)) {
    throw badOption('maxBytes', maxBytes, 'Pass a number of bytes, such as 50e9.');
  }
  const place = env.LOWBIT_CACHE === 'off' ? '' : env.LOWBIT_CACHE;
  return {
    dir: resolve(dir ?? (place || systemFolder(env, platform))),
    maxBytes: maxBytes ?? (env.LOWBIT_CACHE_SIZE ? sizeOf(env.LOWBIT_CACHE_SIZE) : DEFAULT_BYTES),
  };
}

/** Whether weights are kept where nobody says so: unless LOWBIT_CACHE is `off`. */
function cacheIsOn(env: Env = process.env): boolean {
  return env.LOWBIT_CACHE !== 'off';
}

/** The option `cache` of `cpu()`, checked; undefined for none. */
export function chosenCache(option: false | (CacheOptions & { readonly how?: unknown }) | undefined): CacheOptions | undefined {
  if (option === false || (option === undefined && !cacheIsOn())) return undefined;
  if (option === undefined) return {};
  if (typeof option !== 'object' || option === null) throw badOption('the option', option, 'Pass false, or { dir, maxBytes }.');
  checkOptionNames('cache', option, ['dir', 'maxBytes', 'how', 'onProblem']);
  return option;
}
