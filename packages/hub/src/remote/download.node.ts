// Models from a hub into the cache that Python shares. A file is fetched beside its final name, taken up again where an earlier run was cut off, checked
// against its digest, and only then renamed: what has a digest for a name has that content.

import { createHash, type Hash } from 'node:crypto';
import {
  copyFile,
  type FileHandle,
  lstat,
  mkdir,
  open,
  readlink,
  realpath,
  rename,
  rm,
  stat,
  statfs,
  symlink,
  utimes,
} from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { type CallOptions, checkOptionNames, isLowbitError, LowbitError } from '@lowbit/core';
import { errnoOf, guarded, readFully, writeFully } from '../io.node.ts';
import { type Lock, takeLock } from '../safetensors/lock.node.ts';
import { type CachePlaces, cachedSnapshot, cachePlaces, writeRef } from './cache.node.ts';
import { type HubClient, wait } from './client.ts';
import { gitHead } from './digests.ts';
import { corrupted } from './errors.ts';
import { fetchRange, remoteSource } from './fetch-range.ts';
import { listModel, type RemoteEntry, type RemoteListing } from './listing.ts';
import { parseHubName } from './repo.ts';
import { type SelectOptions, selectFiles } from './select.ts';
import { type HubSettings, hubClient, hubSettings } from './settings.node.ts';
import { cachedFolder, isThere, missingFiles, pointerOf } from './snapshot.node.ts';

export interface DownloadOptions extends SelectOptions, CallOptions {
  /** Default: by the environment. */
  readonly settings?: HubSettings | undefined;
  /** Default: one made of the settings. */
  readonly client?: HubClient | undefined;
  /** Files at a time; default 4. */
  readonly parallel?: number | undefined;
  /** Put files in place of links, as where the system has none. Default: HF_HUB_DISABLE_SYMLINKS, or what the system says. */
  readonly links?: boolean | undefined;
}

const OPTIONS = Object.keys({
  settings: true,
  client: true,
  parallel: true,
  links: true,
  allow: true,
  ignore: true,
  signal: true,
  onProgress: true,
} satisfies Record<keyof DownloadOptions, true>);

/** A model in the cache. */
export interface DownloadedModel {
  /** Folder of the commit in the cache; `openCheckpoint` opens it. */
  readonly folder: string;
  /** Where a GGUF file was asked for: its path in the folder, which `openCheckpoint` opens, too. */
  readonly file?: string;
  readonly name: string;
  /** Undefined offline, where the folder's name tells it. */
  readonly listing: RemoteListing | undefined;
  readonly files: readonly { readonly name: string; readonly bytes: number; readonly cached: boolean }[];
  /** Bytes that were received for files. */
  readonly received: number;
}

/**
 * Downloads what a model needs (`org/name` or `org/name@revision`), or a GGUF file of it (`org/name/file.gguf`), into the cache, or takes what is there: offline all of it, else the files whose contents
 * are still those of the revision.
 * @throws ERR_NOT_FOUND, ERR_GATED_REPO, ERR_ACCESS_DENIED, ERR_NETWORK, ERR_INTEGRITY (another content than was listed), ERR_BAD_CHECKPOINT (hostile
 * names), ERR_OFFLINE_MISS, ERR_IO (full disk: before anything is fetched, where that can be told); abort throws the signal's reason. What was received
 * stays for the next run
 *
 * @example
 * const { folder } = await downloadModel('HuggingFaceTB/SmolLM2-135M');
 * await using checkpoint = await openCheckpoint(folder);
 */
export async function downloadModel(name: string, options: DownloadOptions = {}): Promise<DownloadedModel> {
  checkOptionNames('downloadModel', options, OPTIONS);
  const { signal, parallel = 4 } = options;
  const { repo, file } = parseHubName(name);
  const settings = options.settings ?? (await hubSettings());
  if (settings.offline) {
    const folder = await cachedSnapshot(settings.cacheDir, repo);
    return {
      folder,
      ...(file === undefined ? {} : { file: join(folder, file) }),
      name: repo.name,
      listing: undefined,
      files: [],
      received: 0,
    };
  }
  const client = options.client ?? hubClient(settings);
  const listing = await listModel(client, repo, { signal });
  const places = cachePlaces(settings.cacheDir, listing.name);
  const entries = await selectFiles(listing, cachedFolder(places, client, listing), { ...options, file });
  const missing = await missingFiles(places, listing, entries);
  await guarded('write', places.blobs, () => mkdir(places.blobs, { recursive: true }));
  await checkRoom(places, missing);
  const job: Job = { client, listing, places, options, tally: { done: 0, total: 0, received: 0 } };
  job.tally.total = missing.reduce((sum, { size }) => sum + size, 0);
  const waiting = [...missing];
  const failed = new AbortController();
  const stop = signal === undefined ? failed.signal : AbortSignal.any([signal, failed.signal]);
  const lane = async (): Promise<void> => {
    for (let entry = waiting.shift(); entry !== undefined; entry = waiting.shift()) {
      try {
        await download(job, entry, stop);
      } catch (error) {
        failed.abort(error); // the first failure ends the others, which keep what they have
        throw error;
      }
    }
  };
  const lanes = await Promise.allSettled(Array.from({ length: Math.max(1, Math.min(parallel, missing.length)) }, lane));
  if (failed.signal.aborted) {
    signal?.throwIfAborted();
    throw failed.signal.reason;
  }
  for (const outcome of lanes) if (outcome.status === 'rejected') throw outcome.reason;
  await writeRef(settings.cacheDir, repo, listing.commit);
  return {
    folder: places.snapshot(listing.commit),
    ...(file === undefined ? {} : { file: join(places.snapshot(listing.commit), file) }),
    name: listing.name,
    listing,
    files: entries.map((entry) => ({ name: entry.path, bytes: entry.size, cached: !missing.includes(entry) })),
    received: job.tally.received,
  };
}

interface Job {
  readonly client: HubClient;
  readonly listing: RemoteListing;
  readonly places: CachePlaces;
  readonly options: DownloadOptions;
  readonly tally: { done: number; total: number; received: number };
}

async function download(job: Job, entry: RemoteEntry, signal: AbortSignal): Promise<void> {
  const { places, listing, options } = job;
  const blob = join(places.blobs, entry.etag);
  const pointer = pointerOf(places, listing, entry);
  const lock = await waitForLock(join(places.locks, `${entry.etag}.lowbit.lock`), signal);
  try {
    const fresh = !(await isThere(blob, entry));
    if (fresh) await fetchBlob(job, entry, blob, signal);
    else advance(job, entry, entry.size);
    await guarded('write', pointer, () => point(blob, pointer, fresh, options.links ?? !disabledLinks()));
  } finally {
    await lock.release();
  }
}

async function fetchBlob(job: Job, entry: RemoteEntry, blob: string, signal: AbortSignal): Promise<void> {
  const { client, listing, tally } = job;
  // A name that no other program uses: Python's unfinished files have names of their own, too.
  const unfinished = `${blob}.lowbit.incomplete`;
  const handle = await guarded('write', unfinished, () => open(unfinished, 'a+'));
  let whole = false;
  try {
    const hash = startHash(entry);
    let kept = await guarded('read', unfinished, async () => (await handle.stat()).size);
    if (kept > entry.size) {
      await guarded('write', unfinished, () => handle.truncate(0));
      kept = 0;
    }
    await guarded('read', unfinished, () => hashFile(handle, kept, hash, signal));
    advance(job, entry, kept);
    await fetchRange(
      remoteSource(client, listing, entry),
      kept,
      entry.size,
      async (piece, at) => {
        await guarded('write', unfinished, () => writeFully(handle, piece, at));
        hash.update(piece);
        tally.received += piece.byteLength;
        advance(job, entry, piece.byteLength);
      },
      signal,
    );
    const actual = hash.digest('hex');
    if (actual !== entry.etag) {
      // What an earlier run left may be what is wrong.
      await guarded('write', unfinished, () => handle.truncate(0));
      throw corrupted(entry.path, 'what came is not what the listing names', { expected: entry.etag, actual, resumed: kept > 0 });
    }
    await guarded('write', unfinished, () => handle.datasync());
    whole = true;
  } finally {
    await handle.close();
    if (!whole) await rmIfEmpty(unfinished);
  }
  await guarded('write', blob, () => rename(unfinished, blob));
}

function startHash({ etag, size }: RemoteEntry): Hash {
  return etag.length === 64 ? createHash('sha256') : createHash('sha1').update(gitHead(size));
}

async function hashFile(handle: FileHandle, size: number, hash: Hash, signal: AbortSignal): Promise<void> {
  const piece = new Uint8Array(Math.min(size, 1 << 20));
  for (let at = 0; at < size; at += piece.byteLength) {
    signal.throwIfAborted();
    const part = piece.subarray(0, Math.min(piece.byteLength, size - at));
    await readFully(handle, part, at, signal);
    hash.update(part);
  }
}

function advance({ tally, options }: Job, { path }: RemoteEntry, bytes: number): void {
  tally.done += bytes;
  options.onProgress?.({ phase: 'download', done: tally.done, total: tally.total, unit: 'bytes', item: path });
}

/**
 * Puts a content where a snapshot has it: by a relative link, as Python does. Where there are none, a new content is moved there, and one that others may
 * use copied.
 */
async function point(blob: string, pointer: string, fresh: boolean, links: boolean): Promise<void> {
  await mkdir(dirname(pointer), { recursive: true });
  const target = relative(await realpath(dirname(pointer)), join(await realpath(dirname(blob)), blob.slice(dirname(blob).length + 1)));
  if (links) {
    try {
      const there = await lstat(pointer).catch(() => undefined);
      if (there?.isSymbolicLink() && (await readlink(pointer)) === target) return;
      await rm(pointer, { force: true });
      return await symlink(target, pointer);
    } catch (error) {
      const errno = errnoOf(error);
      if (errno === 'EEXIST') return; // somebody else was faster
      if (errno !== 'EPERM' && errno !== 'ENOTSUP' && errno !== 'EOPNOTSUPP' && errno !== 'ENOSYS') throw error;
    }
  }
  const near = `${pointer}.lowbit.incomplete`;
  if (fresh) await rename(blob, pointer);
  else {
    await copyFile(blob, near);
    await rename(near, pointer);
  }
  const now = new Date();
  await utimes(pointer, now, now);
}

function disabledLinks(): boolean {
  return /^(?:1|on|yes|true)$/i.test(process.env.HF_HUB_DISABLE_SYMLINKS ?? '');
}

/**
 * One process at a time fetches a content; another waits and then finds it. Python's locks are the system's own (flock), which Node cannot take; they
 * save work there, too, and nothing depends on them (file_download.py of huggingface_hub 2.4 says so).
 */
async function waitForLock(path: string, signal: AbortSignal): Promise<Lock> {
  await guarded('write', path, () => mkdir(dirname(path), { recursive: true }));
  for (;;) {
    try {
      return await takeLock(path);
    } catch (error) {
      if (!isLowbitError(error, 'ERR_OUTPUT_EXISTS')) throw error;
      await wait(200, signal);
    }
  }
}

async function checkRoom({ blobs }: CachePlaces, missing: readonly RemoteEntry[]): Promise<void> {
  const space = await statfs(blobs).catch(() => undefined);
  if (space === undefined || space.blocks === 0) return;
  let needed = 0;
  for (const { etag, size } of missing) {
    for (const name of [etag, `${etag}.lowbit.incomplete`]) {
      const kept = await stat(join(blobs, name)).catch(() => undefined);
      if (kept !== undefined) needed -= Math.min(size, kept.size);
    }
    needed += size;
  }
  const free = space.bavail * space.bsize;
  if (needed <= free) return;
  throw new LowbitError('ERR_IO', `cannot download into ${blobs}: ${needed} bytes are needed, ${free} are free on that disk`, {
    hint: 'Free some space (`lowbit cache ls`, `lowbit cache rm`), or set HF_HUB_CACHE to a folder on another disk.',
    details: { path: blobs, errno: 'ENOSPC', needed, free },
  });
}

async function rmIfEmpty(path: string): Promise<void> {
  const info = await stat(path).catch(() => undefined);
  if (info?.size === 0) await rm(path, { force: true });
}
