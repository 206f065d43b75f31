// Where shards lie: `OUT.shards/00002-of-00004` beside the output to be.

import { readdir, rm, rmdir, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { LowbitError } from '@lowbit/core';
import { openFolder, readInside } from '../folder.node.ts';
import { errnoOf, guarded } from '../io.node.ts';
import { exists } from '../safetensors/existing.node.ts';
import { lockHolder } from '../safetensors/lock.node.ts';
import type { Shard } from './divide.ts';
import { MANIFEST_FILE, MAX_MANIFEST_BYTES, parseManifest, type ShardManifest } from './manifest.ts';

/** A holder of a lock says so every so many milliseconds. After four times as long without a word it counts as dead, on whatever machine it was. */
export const BEAT_MS = 15_000;

/** The folder of all shards of an output. */
export function shardsFolder(out: string): string {
  return `${resolve(out)}.shards`;
}

const NAME = /^(\d{5})-of-(\d{5})(\.partial(?:\.lock)?)?$/;

/** The folder of one shard of an output. */
export function shardFolder(out: string, { index, count }: Shard): string {
  const digits = (value: number): string => String(value).padStart(5, '0');
  return join(shardsFolder(out), `${digits(index)}-of-${digits(count)}`);
}

/** The lock of a shard's folder. */
export function shardLock(folder: string): string {
  return `${folder}.partial.lock`;
}

/** Undefined if there is none. Throws ERR_BAD_CHECKPOINT for a damaged one, ERR_IO. */
export async function readShard(folder: string): Promise<ShardManifest | undefined> {
  if (!(await exists(folder))) return undefined;
  const data = await readInside(await openFolder(folder), MANIFEST_FILE, MAX_MANIFEST_BYTES);
  return data && parseManifest(data, join(folder, MANIFEST_FILE));
}

/** Folders of finished shards at a path: itself, if it is one, or those in it. Throws ERR_NOT_FOUND, ERR_IO. */
export async function finishedShards(path: string): Promise<readonly string[]> {
  if (await exists(join(path, MANIFEST_FILE))) return [path];
  const names = await guarded('open', path, () => readdir(path));
  const folders = names.filter((name) => NAME.test(name) && !name.includes('.')).sort();
  const found: string[] = [];
  for (const name of folders) if (await exists(join(path, name, MANIFEST_FILE))) found.push(join(path, name));
  return found;
}

/** What there is of a shard that is not finished, in words. */
export async function unfinishedState(out: string, shard: Shard): Promise<string> {
  const folder = shardFolder(out, shard);
  const holder = await lockHolder(shardLock(folder));
  if (holder !== undefined) return `${holder} is at it`;
  return (await exists(`${folder}.partial`)) ? 'interrupted' : 'missing';
}

/** Removes what was merged, and the folder of all shards if nothing else is in it. The manifest goes last: it says what to do about a rest. */
export async function removeShard(folder: string): Promise<void> {
  await guarded('remove', folder, async () => {
    for (const name of await readdir(folder)) if (name !== MANIFEST_FILE) await rm(join(folder, name), { force: true });
    await rm(folder, { recursive: true, force: true });
  });
}

/** Removes a folder unless something is in it. */
export async function removeEmpty(folder: string): Promise<void> {
  await rmdir(folder).catch((error: unknown) => {
    if (!['ENOENT', 'ENOTEMPTY', 'EEXIST'].includes(errnoOf(error) ?? '')) throw error;
  });
}

/** Throws ERR_OUTPUT_EXISTS for a folder of that name that is no shard. */
export async function dropShard(folder: string): Promise<void> {
  if (!(await exists(folder))) return;
  const info = await guarded('open', folder, () => stat(folder));
  const names = info.isDirectory() ? await guarded('open', folder, () => readdir(folder)) : undefined;
  if (names !== undefined && (names.length === 0 || names.includes(MANIFEST_FILE))) return removeShard(folder);
  throw new LowbitError('ERR_OUTPUT_EXISTS', `${folder} is in the way, and it is no shard`, {
    hint: 'Remove it yourself.',
    details: { path: folder, name: basename(folder) },
  });
}
