// One writer for an output: `<out>.partial.lock` beside the unfinished folder, made before anything else is touched. It names its process, so that
// the lock of a killed run does not outlive it.

import { randomUUID } from 'node:crypto';
import { open, readFile, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { LowbitError } from '@lowbit/core';
import { errnoOf, guarded } from '../io.node.ts';

export interface Lock {
  /** Throws ERR_OUTPUT_EXISTS if another process has taken the lock away. */
  check(): Promise<void>;
  release(): Promise<void>;
}

interface Owner {
  readonly pid: number;
  readonly host: string;
  readonly nonce: string;
}

/** Locks that this process holds: a lock with its pid but none of these is of a dead process that had the same pid. */
const held = new Set<string>();

/** Takes the lock. Throws ERR_OUTPUT_EXISTS while another run holds it. */
export async function takeLock(path: string): Promise<Lock> {
  const owner: Owner = { pid: process.pid, host: hostname(), nonce: randomUUID() };
  if (!(await create(path, owner))) {
    const other = await readOwner(path);
    if (other !== undefined && isAlive(other)) throw taken(path, other);
    await guarded('remove', path, () => rm(path, { force: true }));
    if (!(await create(path, owner))) throw taken(path, await readOwner(path));
  }
  held.add(owner.nonce);
  const check = async (): Promise<void> => {
    const now = await readOwner(path);
    if (now?.nonce !== owner.nonce) throw taken(path, now);
  };
  await check();
  return {
    check,
    async release() {
      if (!held.delete(owner.nonce)) return;
      if ((await readOwner(path))?.nonce === owner.nonce) await rm(path, { force: true });
    },
  };
}

async function create(path: string, owner: Owner): Promise<boolean> {
  return guarded('write', path, async () => {
    try {
      const handle = await open(path, 'wx');
      await handle.writeFile(JSON.stringify(owner));
      await handle.close();
      return true;
    } catch (error) {
      if (errnoOf(error) === 'EEXIST') return false;
      throw error;
    }
  });
}

/** Undefined if the lock is gone, or was torn by a crash. */
async function readOwner(path: string): Promise<Owner | undefined> {
  try {
    const value: unknown = JSON.parse(await readFile(path, 'utf8'));
    if (typeof value !== 'object' || value === null) return undefined;
    const { pid, host, nonce } = value as Record<string, unknown>;
    if (typeof pid !== 'number' || typeof host !== 'string' || typeof nonce !== 'string') return undefined;
    return { pid, host, nonce };
  } catch {
    return undefined;
  }
}

/** A process of another machine (a shared disk) cannot be asked: it counts as alive. */
function isAlive({ pid, host, nonce }: Owner): boolean {
  if (host !== hostname()) return true;
  if (pid === process.pid) return held.has(nonce);
  if (!Number.isInteger(pid) || pid < 1) return false; // kill would speak to groups of processes
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return errnoOf(error) === 'EPERM';
  }
}

function taken(path: string, owner: Owner | undefined): LowbitError {
  const who = owner === undefined ? 'another process' : `process ${owner.pid} on ${owner.host}`;
  return new LowbitError('ERR_OUTPUT_EXISTS', `${who} is writing this output: ${path}`, {
    hint: 'Wait for it or choose another output folder. If that process is certainly gone, delete the lock file.',
    details: { file: path, ...owner },
  });
}
