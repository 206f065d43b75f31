// One writer for an output: a file beside it (`<out>.partial.lock`), made before anything else is touched. It names its process, so that
// the lock of a killed run does not outlive it. A process of another machine (a shared disk) cannot be asked whether it lives; a lock that says how often its
// holder writes it anew can: the disk's own clock tells when it did so last.

import { randomUUID } from 'node:crypto';
import { type FileHandle, link, open, readFile, rename, rm, stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { LowbitError } from '@lowbit/core';
import { errnoOf, guarded, statIfThere } from '../io.node.ts';

/** Of `takeLock`. */
export interface Lock {
  /** Throws ERR_OUTPUT_EXISTS if another process has taken the lock away. */
  check(): Promise<void>;
  /** Gives the lock back. Called twice, it does nothing. */
  release(): Promise<void>;
}

/** Of `takeLock`. */
export interface LockOptions {
  /** Write the lock anew every so many milliseconds, so that other machines can tell a dead holder after four times as long. Default: they never can. */
  readonly beatMs?: number | undefined;
}

interface Owner {
  readonly pid: number;
  readonly host: string;
  readonly nonce: string;
  readonly beatMs?: number | undefined;
}

/** Beats that may be missed. */
const PATIENCE = 4;

/** Locks that this process holds: a lock with its pid but none of these is of a dead process that had the same pid. */
const held = new Set<string>();

/**
 * Takes the lock that is the file `path`, whose folder is there. One that a dead process of this machine has left is taken over. Throws ERR_OUTPUT_EXISTS
 * while another run holds it, ERR_IO where that cannot be told.
 *
 * @example
 * const lock = await takeLock('out.json.lock'); // then write out.json, and in a `finally`:
 * await lock.release();
 */
export async function takeLock(path: string, { beatMs }: LockOptions = {}): Promise<Lock> {
  const owner: Owner = { pid: process.pid, host: hostname(), nonce: randomUUID(), ...(beatMs === undefined ? {} : { beatMs }) };
  held.add(owner.nonce); // before others can see it: whoever reads the lock asks for it
  try {
    const handle = (await create(path, owner)) ?? (await takeOver(path, owner));
    const stop = await keepBeating(handle, owner);
    try {
      await settled(path, owner);
    } catch (error) {
      await stop();
      throw error;
    }
    return lockOf(path, owner, stop);
  } catch (error) {
    held.delete(owner.nonce);
    throw error;
  }
}

/** In the place of a lock whose holder is dead. Of several that see it so, one gets it. */
async function takeOver(path: string, owner: Owner): Promise<FileHandle> {
  const other = await readOwner(path);
  if (other !== undefined && (await isAlive(path, other))) throw taken(path, other);
  // Set aside before it goes: meanwhile another may have put its own there, which is put back.
  const aside = `${path}.${owner.nonce}.dead`;
  const isMoved = await guarded('rename', path, () =>
    rename(path, aside).then(
      () => true,
      (error: unknown) => {
        if (errnoOf(error) === 'ENOENT') return false;
        throw error;
      },
    ),
  );
  if (isMoved) {
    const moved = await readOwner(aside);
    if (moved !== undefined && moved.nonce !== other?.nonce) {
      await guarded('write', path, () => link(aside, path)).catch(() => {}); // its holder finds out that it is gone
      await guarded('remove', aside, () => rm(aside, { force: true }));
      throw taken(path, moved);
    }
    await guarded('remove', aside, () => rm(aside, { force: true }));
  }
  const handle = await create(path, owner);
  if (handle === undefined) throw taken(path, await readOwner(path));
  return handle;
}

/** Throws ERR_OUTPUT_EXISTS unless the lock stays: another that took it for the dead one puts it back at once. */
async function settled(path: string, owner: Owner): Promise<void> {
  for (let turn = 0; ; turn++) {
    const now = await readOwner(path);
    if (now?.nonce === owner.nonce) return;
    if (now !== undefined || turn === 10) throw taken(path, now);
    await sleep(20);
  }
}

function lockOf(path: string, owner: Owner, stop: () => Promise<void>): Lock {
  const check = async (): Promise<void> => {
    const now = await readOwner(path);
    if (now?.nonce !== owner.nonce) throw taken(path, now);
  };
  return {
    check,
    async release() {
      if (!held.delete(owner.nonce)) return;
      await stop();
      // One that cannot be read stays: it counts as left over when this process has ended.
      const now = await readOwner(path).catch(() => undefined);
      if (now?.nonce === owner.nonce) await rm(path, { force: true });
    },
  };
}

/** Undefined if there is one already. It is seen with its contents or not at all, where the disk has links. */
async function create(path: string, owner: Owner): Promise<FileHandle | undefined> {
  const draft = `${path}.${owner.nonce}`;
  return guarded('write', path, async () => {
    const handle = await open(draft, 'wx');
    try {
      await handle.writeFile(JSON.stringify(owner));
      await link(draft, path);
      await rm(draft, { force: true });
      return handle;
    } catch (error) {
      await handle.close();
      await rm(draft, { force: true });
      if (errnoOf(error) === 'EEXIST') return undefined;
      if (!NO_LINKS.has(errnoOf(error) ?? '')) throw error;
      return await createInPlace(path, owner);
    }
  });
}

/** Of a disk without hard links. */
const NO_LINKS = new Set(['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK', 'EXDEV']);

async function createInPlace(path: string, owner: Owner): Promise<FileHandle | undefined> {
  let handle: FileHandle;
  try {
    handle = await open(path, 'wx');
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return undefined;
    throw error;
  }
  try {
    await handle.writeFile(JSON.stringify(owner));
    return handle;
  } catch (error) {
    await handle.close();
    await rm(path, { force: true });
    throw error;
  }
}

/** Writes the lock anew until it is told to stop: through its handle, so that a lock which was taken away is not written. */
async function keepBeating(handle: FileHandle, owner: Owner): Promise<() => Promise<void>> {
  if (owner.beatMs === undefined) {
    await handle.close();
    return async () => {};
  }
  const text = Buffer.from(JSON.stringify(owner));
  let beat: Promise<unknown> = Promise.resolve();
  const timer = setInterval(() => {
    beat = beat.then(() => handle.write(text, 0, text.byteLength, 0)).catch(() => {}); // `check` finds out what is wrong
  }, owner.beatMs);
  timer.unref();
  return async () => {
    clearInterval(timer);
    await beat;
    await handle.close();
  };
}

/** Undefined if the lock is gone, or was torn by a crash. Throws ERR_IO for one that cannot be read: it may be another's. */
async function readOwner(path: string): Promise<Owner | undefined> {
  const text = await guarded('read', path, () =>
    readFile(path, 'utf8').catch((error: unknown) => {
      if (errnoOf(error) === 'ENOENT') return '';
      throw error;
    }),
  );
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const { pid, host, nonce, beatMs } = value as Record<string, unknown>;
  if (typeof pid !== 'number' || typeof host !== 'string' || typeof nonce !== 'string') return undefined;
  return { pid, host, nonce, beatMs: typeof beatMs === 'number' && beatMs > 0 ? beatMs : undefined };
}

/** Whoever holds a lock at that path, as far as it can be told: a process of another machine counts as alive while its lock is written anew, or if it never is. */
async function isAlive(path: string, { pid, host, nonce, beatMs }: Owner): Promise<boolean> {
  if (host !== hostname()) return beatMs === undefined || (await silence(path)) <= PATIENCE * beatMs;
  if (pid === process.pid) return held.has(nonce);
  if (!Number.isInteger(pid) || pid < 1) return false; // kill would speak to groups of processes
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return errnoOf(error) === 'EPERM';
  }
}

/** Milliseconds since a file was written, by the clock of its disk: that of another machine may be wrong. */
async function silence(path: string): Promise<number> {
  const probe = `${path}.${randomUUID()}`;
  try {
    return await guarded('write', probe, async () => {
      await (await open(probe, 'wx')).close();
      const [now, then] = [await stat(probe), await statIfThere(path)];
      return then === undefined ? Number.POSITIVE_INFINITY : now.mtimeMs - then.mtimeMs;
    });
  } finally {
    await rm(probe, { force: true });
  }
}

/** Who holds the lock at that path, in words; undefined if nobody alive does. */
export async function lockHolder(path: string): Promise<string | undefined> {
  const owner = await readOwner(path);
  return owner !== undefined && (await isAlive(path, owner)) ? whoText(owner) : undefined;
}

function whoText(owner: Owner | undefined): string {
  return owner === undefined ? 'another process' : `process ${owner.pid} on ${owner.host}`;
}

function taken(path: string, owner: Owner | undefined): LowbitError {
  return new LowbitError('ERR_OUTPUT_EXISTS', `${whoText(owner)} is writing this output: ${path}`, {
    hint: 'Wait for it or choose another output folder. If that process is certainly gone, delete the lock file.',
    details: { file: path, ...owner },
  });
}
