// Regular files of a disk, opened for reading.

import type { BigIntStats } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { basename, resolve } from 'node:path';
import { LowbitError } from '@lowbit/core';
import type { RandomFile } from './file.ts';
import { guarded, readFully } from './io.node.ts';

export interface OpenSourceOptions {
  /** Names the source in messages; default the first path. */
  readonly label?: string;
  readonly signal?: AbortSignal | undefined;
}

/** What `openFileSource` takes, for paths. */
export function pathOpeners(
  paths: string | readonly string[],
  { label, signal }: OpenSourceOptions,
): [openers: ((signal: AbortSignal | undefined) => Promise<RandomFile>)[], options: { label: string; signal: AbortSignal | undefined }] {
  const list = typeof paths === 'string' ? [paths] : paths;
  return [list.map((path) => (signal) => openRegular(path, signal)), { label: label ?? list[0] ?? 'no files', signal }];
}

/** Opens a file for reading. Throws ERR_NOT_FOUND, and ERR_IO for what is no regular file. */
export async function openRegular(path: string, signal?: AbortSignal): Promise<RandomFile> {
  signal?.throwIfAborted();
  // Before opening: a named pipe would block for ever.
  const kind = await guarded('open', path, () => stat(path));
  if (!kind.isFile()) {
    throw new LowbitError('ERR_IO', `cannot read ${path}: it is no regular file`, { hint: 'Check the path.', details: { path } });
  }
  const handle = await guarded('open', path, () => open(path, 'r'));
  try {
    const facts = await guarded('read', path, () => handle.stat({ bigint: true }));
    return {
      path,
      name: basename(path),
      size: Number(facts.size),
      state: stateOf(path, facts),
      read: (into, at, signal) => guarded('read', path, () => readFully(handle, into, at, signal)),
      close: () => handle.close(),
    };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** Clocks of file systems tick up to this much later than others' (FAT and network shares have whole seconds). */
const TICK_MS = 100;
const COARSE_TICK_MS = 2100;

function stateOf(path: string, { size, ino, mtimeNs, ctimeNs }: BigIntStats): string | undefined {
  const coarse = mtimeNs % 1_000_000_000n === 0n && ctimeNs % 1_000_000_000n === 0n;
  const changed = Number((mtimeNs > ctimeNs ? mtimeNs : ctimeNs) / 1_000_000n);
  if (Date.now() - changed < (coarse ? COARSE_TICK_MS : TICK_MS)) return undefined;
  return JSON.stringify([resolve(path), ...[size, ino, mtimeNs, ctimeNs].map(String)]);
}
