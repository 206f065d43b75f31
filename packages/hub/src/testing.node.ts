// Helpers of this package's tests: temporary folders and small safetensors files made by hand.

import { spawnSync } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { isLowbitError, type LowbitError } from '@lowbit/core';

/** A new folder; `await using` removes it. */
export async function temporaryFolder(): Promise<AsyncDisposable & { readonly path: string }> {
  const path = await mkdtemp(join(tmpdir(), 'lowbit-hub-'));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

/** Mounts a disk in memory over a folder, with options such as `size=1m`; undefined if this user may not. */
export function mount(path: string, options: string): Disposable | undefined {
  if (process.platform !== 'linux' || spawnSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', path]).status !== 0) return undefined;
  return { [Symbol.dispose]: () => spawnSync('umount', [path]) };
}

/** A folder with the given files. */
export async function folderOf(path: string, files: Readonly<Record<string, string | Uint8Array>>): Promise<string> {
  for (const [name, content] of Object.entries(files)) {
    await mkdir(dirname(join(path, name)), { recursive: true });
    await writeFile(join(path, name), content);
  }
  return path;
}

/** Bytes of a file with this header text, whatever it says, and `dataBytes` zeros. */
export function rawFile(header: string | Uint8Array, dataBytes = 0, claimedLength?: bigint): Uint8Array {
  const text = typeof header === 'string' ? new TextEncoder().encode(header) : header;
  const bytes = new Uint8Array(8 + text.byteLength + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, claimedLength ?? BigInt(text.byteLength), true);
  bytes.set(text, 8);
  return bytes;
}

/** The LowbitError that the work fails with. Throws if it succeeds or fails in another way. */
export async function failure(work: () => unknown): Promise<LowbitError> {
  try {
    await work();
  } catch (error) {
    if (isLowbitError(error)) return error;
    throw error;
  }
  throw new Error('it was expected to fail');
}
