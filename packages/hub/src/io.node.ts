// The one place where errors of the operating system become ours, and the two loops that make positional reads and writes whole.

import type { Stats } from 'node:fs';
import { type FileHandle, stat } from 'node:fs/promises';
import { LowbitError } from '@lowbit/core';

/** errno name -> [what happened, what the user can do]. */
const ERRNO: Readonly<Record<string, readonly [problem: string, hint: string]>> = {
  ENOSPC: ['the disk is full', 'Free some space or write to another disk; `lowbit quantize --dry-run` prints the bytes needed.'],
  EDQUOT: ['the disk quota is used up', 'Free some space or write to another disk.'],
  EROFS: ['the file system is mounted read-only', 'Write to a folder on a writable disk.'],
  EACCES: ['permission denied', 'Check who owns the folder and its permissions, or use another folder.'],
  EPERM: ['operation not permitted', 'Check the permissions of the folder, or use another one.'],
  ENOTDIR: ['a part of the path is a file, not a folder', 'Check the path.'],
  EISDIR: ['it is a folder, not a file', 'Check the path.'],
  EMFILE: ['too many open files', 'Raise the limit (`ulimit -n`) or use fewer, larger shards.'],
  ENFILE: ['too many open files on this machine', 'Close other programs, or use fewer, larger shards.'],
  EFBIG: ['the file is larger than the file system allows', 'Use smaller shards (`shardSize`).'],
  EEXIST: ['something of that name is there already', 'Remove it, or use another path.'],
  EIO: ['the device failed', 'Check the disk; try another one.'],
  EBUSY: ['it is in use', 'Close what uses it and try again.'],
  ENAMETOOLONG: ['the name is too long', 'Use a shorter path.'],
  ELOOP: ['its symbolic links go in a circle', 'Check the links.'],
};

/** The errno name of a system error (`ENOENT`), if it is one. */
export function errnoOf(error: unknown): string | undefined {
  const code = typeof error === 'object' && error !== null ? (error as { code?: unknown }).code : undefined;
  return typeof code === 'string' && /^E[A-Z0-9]+$/.test(code) ? code : undefined;
}

/**
 * ERR_IO (ERR_NOT_FOUND for ENOENT) with path and remedy for a system error; anything else, such as an abort or one of our own errors, is
 * returned as it is. `action` completes "cannot ...": `write`, `open`.
 */
function ioError(error: unknown, action: string, path: string): unknown {
  const errno = errnoOf(error);
  if (errno === undefined) return error;
  if (errno === 'ENOENT') {
    return new LowbitError('ERR_NOT_FOUND', `cannot ${action} ${path}: it does not exist`, {
      hint: 'Check the path.',
      details: { path, errno },
      cause: error,
    });
  }
  const [problem, hint] = ERRNO[errno] ?? [errno, undefined];
  return new LowbitError('ERR_IO', `cannot ${action} ${path}: ${problem}`, { hint, details: { path, errno }, cause: error });
}

/** Runs `work` and rethrows its system errors as `ioError`. */
export async function guarded<T>(action: string, path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw ioError(error, action, path);
  }
}

/** What is at a path, links followed; undefined only where there is nothing of that name. Throws ERR_IO for what cannot be looked at. */
export async function statIfThere(path: string): Promise<Stats | undefined> {
  try {
    return await stat(path);
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'ENOENT' || errno === 'ENOTDIR') return undefined;
    throw ioError(error, 'open', path);
  }
}

/** Bytes per system call: a bound on how long an abort waits, and below the 2 GiB that one call can move. */
const PIECE = 64 * 1024 * 1024;

/** Fills `into` from byte `at` of the file; resolves to the number of bytes read, which is less only at the end of the file. */
export async function readFully(file: FileHandle, into: Uint8Array, at: number, signal?: AbortSignal): Promise<number> {
  let done = 0;
  while (done < into.byteLength) {
    signal?.throwIfAborted();
    const { bytesRead } = await file.read(into, done, Math.min(PIECE, into.byteLength - done), at + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return done;
}

/** Writes all of `data` at byte `at`. A full disk may take a part first: the next call then fails with its reason. */
export async function writeFully(file: FileHandle, data: Uint8Array, at: number): Promise<void> {
  let done = 0;
  while (done < data.byteLength) {
    const { bytesWritten } = await file.write(data, done, Math.min(PIECE, data.byteLength - done), at + done);
    if (bytesWritten === 0) throw Object.assign(new Error('the write took no bytes'), { code: 'ENOSPC' });
    done += bytesWritten;
  }
}
