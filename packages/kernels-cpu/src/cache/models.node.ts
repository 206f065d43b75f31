// The models of a cache on disk: a folder each, in it model.json and a file for every packed weight. Nothing that does not look like one is listed or
// removed: the place may hold files of others.

import { createHash, randomUUID } from 'node:crypto';
import { lstat, mkdir, readdir, readFile, rename, rm, rmdir, utimes, writeFile } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { isPlainRecord, LowbitError, type WeightOrigin } from '@lowbit/core';
import { type CacheOptions, cacheSettings } from './settings.node.ts';

/** The packed weights of one model in one state of its files. */
export interface CachedModel {
  /** Of its folder in the cache. */
  readonly name: string;
  /** Where the model was read from. */
  readonly label: string;
  readonly bytes: number;
  readonly weights: number;
  readonly lastUsed: Date;
}

/** What a cache holds. */
export interface CacheListing {
  readonly dir: string;
  /** Of all models. */
  readonly bytes: number;
  readonly maxBytes: number;
  /** The most recently used first. */
  readonly models: readonly CachedModel[];
}

const FACTS = 'model.json';
const NAME = /^[\w.-]{1,80}-[0-9a-f]{16}$/;
const WEIGHT = /^[0-9a-f]{32}\.packed$/;
/** Names of files that are being written: see `partialName`. */
const PARTIAL = /^\.[0-9a-f]{32}\.[0-9a-f-]+\.partial$/;
/** A file that nobody has written to for so long was left by a process that died. */
const ABANDONED_MS = 60 * 60 * 1000;
const MAX_FACTS = 64 * 1024;

/** The name of a model's folder: something for people, and what tells it from others. */
export function modelName({ label, model }: WeightOrigin): string {
  const word =
    basename(label)
      .replace(/[^\w.-]+/g, '-')
      .replace(/^[.-]+/, '')
      .slice(0, 60) || 'model';
  return `${word}-${createHash('sha256').update(model).digest('hex').slice(0, 16)}`;
}

/** A name for the file of a weight while it is written. */
export function partialName(file: string): string {
  return `.${file.slice(0, 32)}.${randomUUID()}.partial`;
}

/** Makes the folder of a model. */
export async function makeModel(dir: string, origin: WeightOrigin): Promise<string> {
  const folder = join(dir, modelName(origin));
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const facts = join(folder, FACTS);
  const partial = `${facts}.${randomUUID()}.partial`;
  await writeFile(partial, `${JSON.stringify({ kind: 'lowbit packed model', label: origin.label })}\n`, { mode: 0o600 });
  await rename(partial, facts);
  return folder;
}

/** Notes that a model was used now. A cache that cannot be written to does without. */
export async function touchModel(folder: string): Promise<void> {
  const now = new Date();
  await utimes(join(folder, FACTS), now, now).catch(() => undefined);
}

/** Undefined for a folder that is no model of a cache. */
async function readModel(dir: string, name: string): Promise<CachedModel | undefined> {
  const folder = join(dir, name);
  try {
    const facts = await lstat(join(folder, FACTS));
    if (!facts.isFile() || facts.size > MAX_FACTS) return undefined;
    const told: unknown = JSON.parse(await readFile(join(folder, FACTS), 'utf8'));
    if (!isPlainRecord(told) || told.kind !== 'lowbit packed model' || typeof told.label !== 'string') return undefined;
    let bytes = 0;
    let weights = 0;
    for (const file of await readdir(folder)) {
      if (!WEIGHT.test(file)) continue;
      const { size } = await lstat(join(folder, file));
      bytes += size;
      weights++;
    }
    return { name, label: told.label, bytes, weights, lastUsed: facts.mtime };
  } catch {
    return undefined; // gone meanwhile, or not ours
  }
}

/** Models of the cache in `dir`, the most recently used first; none where there is no such folder. */
export async function readModels(dir: string): Promise<readonly CachedModel[]> {
  let names: string[];
  try {
    names = (await readdir(dir, { withFileTypes: true }))
      .filter((entry) => entry.isDirectory() && NAME.test(entry.name))
      .map(({ name }) => name);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') return [];
    throw new LowbitError('ERR_IO', `cannot read the cache ${dir}: ${(cause as Error).message}`, {
      hint: 'Check the folder, or name another one (option dir, variable LOWBIT_CACHE).',
      details: { dir, errno: code },
      cause,
    });
  }
  const models: CachedModel[] = [];
  for (const name of names) {
    const model = await readModel(dir, name);
    if (model) models.push(model);
  }
  return models.sort((a, b) => b.lastUsed.getTime() - a.lastUsed.getTime());
}

/** Removes the files of a model that are ours, and its folder if that is empty then. Programs that use them keep what they have. */
export async function removeModel(dir: string, name: string): Promise<void> {
  const folder = join(dir, name);
  try {
    const files = await readdir(folder);
    const isOurs = (file: string): boolean =>
      WEIGHT.test(file) || PARTIAL.test(file) || file === FACTS || (file.startsWith(`${FACTS}.`) && file.endsWith('.partial'));
    for (const file of files.filter(isOurs)) await rm(join(folder, file), { force: true });
    if (files.every(isOurs)) await rmdir(folder);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTEMPTY') return; // gone, or somebody writes to it again
    throw new LowbitError('ERR_IO', `cannot remove ${folder} from the cache: ${(cause as Error).message}`, {
      hint: 'Check who may write to it.',
      details: { folder, errno: code },
      cause,
    });
  }
}

/** Removes what dead processes left half written in a model's folder. */
export async function sweepModel(folder: string): Promise<void> {
  for (const file of await readdir(folder)) {
    if (!PARTIAL.test(file)) continue;
    const path = join(folder, file);
    const facts = await lstat(path).catch(() => undefined);
    if (facts && Date.now() - facts.mtimeMs > ABANDONED_MS) await rm(path, { force: true });
  }
}

/**
 * What the cache of packed weights holds.
 * @throws ERR_IO for a folder that cannot be read; one that is not there is empty
 */
export async function listCache(options: CacheOptions = {}): Promise<CacheListing> {
  const { dir, maxBytes } = cacheSettings(options);
  const models = await readModels(dir);
  return { dir, maxBytes, bytes: models.reduce((sum, model) => sum + model.bytes, 0), models };
}

/**
 * Removes models from the cache, by name, the beginning of a name, or the folder that they were read from. Programs that run them go on.
 * @returns what was removed
 * @throws ERR_NOT_FOUND for a name that is not there, ERR_BAD_ARGUMENT for one that two models share, ERR_IO; nothing is removed but in the last case
 */
export async function removeCached(names: readonly string[] | 'all', options: CacheOptions = {}): Promise<readonly CachedModel[]> {
  const { dir, models } = await listCache(options);
  const chosen = names === 'all' ? models : [...new Set(names.flatMap((name) => findModels(name, models, dir)))];
  for (const { name } of chosen) await removeModel(dir, name);
  return chosen;
}

/** The model of that name or beginning, or all that were read from that folder: a model that was changed may be there more than once. */
function findModels(wanted: string, models: readonly CachedModel[], dir: string): readonly CachedModel[] {
  const exact = models.filter(({ name, label }) => name === wanted || label === resolve(wanted));
  if (exact.length > 0) return exact;
  const begun = wanted === '' ? [] : models.filter(({ name }) => name.startsWith(wanted));
  if (begun.length === 1) return begun;
  const details = { name: wanted, dir, models: (begun.length > 0 ? begun : models).map(({ name }) => name) };
  if (begun.length > 1) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `${begun.length} models in the cache begin with ${JSON.stringify(wanted)}`, {
      hint: `Name one of ${begun.map(({ name }) => name).join(', ')}.`,
      details,
    });
  }
  throw new LowbitError('ERR_NOT_FOUND', `the cache ${dir} has no model ${JSON.stringify(wanted)}`, {
    hint: models.length > 0 ? `It has ${models.map(({ name }) => name).join(', ')}.` : 'It is empty.',
    details,
  });
}
