// The state of a pass that finds importance, in a file beside the output: an interrupted run goes on at the layer it had come to.
//
// The file is replaced after each layer, under another name first, so it is whole or not there. It names the pass that it is of; one of another pass, or one
// that is damaged, is not gone on from. One run at a time works on an output's: `<out>.importance.lock` names it. 4 bytes a token and hidden channel, and 4 a channel that was looked at.

import { createHash } from 'node:crypto';
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { DTYPE_BYTES, type DType, type HostTensor, type Importance, LowbitError } from '@lowbit/core';
import { takeLock } from '@lowbit/hub';
import type { ImportanceKeeper, ImportanceState } from '@lowbit/models';
import { statIfThere } from './files.ts';

const MAGIC = 'lowbit importance 1\n';
const DIGEST_BYTES = 32;
/** Bytes before the header: the magic, the digest of all that follows, the header's length. */
const HEAD_BYTES = MAGIC.length + DIGEST_BYTES + 4;
/** Nothing that is written here is larger. */
const MOST_BYTES = 2 ** 31 - 1;

interface StoredTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
}

interface Header {
  readonly pass: string;
  readonly ids: readonly (readonly number[])[];
  readonly done: number;
  readonly carried: readonly (readonly (readonly [name: string, tensor: StoredTensor])[])[];
  readonly found: readonly (readonly [path: string, kind: Importance['kind'], rows: number, tensor: StoredTensor])[];
}

/** A state with the samples that it is of. */
export interface KeptState extends ImportanceState {
  readonly ids: readonly (readonly number[])[];
}

/** The bytes of a file. */
export function encodeState(pass: string, { ids, done, carried, found }: KeptState): Uint8Array {
  const data: Uint8Array[] = [];
  const stored = ({ dtype, shape, data: bytes }: HostTensor): StoredTensor => {
    data.push(bytes);
    return { dtype, shape };
  };
  const header: Header = {
    pass,
    ids,
    done,
    carried: carried.map((of) => [...of].map(([name, tensor]) => [name, stored(tensor)])),
    found: [...found].map(([path, { kind, rows, moments }]) => [path, kind, rows, stored(moments)]),
  };
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(text.length);
  const digest = createHash('sha256');
  for (const part of [length, text, ...data]) digest.update(part);
  return Buffer.concat([Buffer.from(MAGIC), digest.digest(), length, text, ...data]);
}

/** What a file holds; undefined if it is damaged, or of another pass. */
export function decodeState(pass: string, file: Uint8Array): KeptState | undefined {
  const bytes = Buffer.from(file.buffer, file.byteOffset, file.byteLength);
  if (bytes.length < HEAD_BYTES || bytes.toString('latin1', 0, MAGIC.length) !== MAGIC) return undefined;
  const digest = createHash('sha256')
    .update(bytes.subarray(MAGIC.length + DIGEST_BYTES))
    .digest();
  if (!digest.equals(bytes.subarray(MAGIC.length, MAGIC.length + DIGEST_BYTES))) return undefined;
  let at = HEAD_BYTES + bytes.readUInt32LE(HEAD_BYTES - 4);
  if (at > bytes.length) return undefined;
  // Nobody but this module makes a file with this digest: what follows is what was written.
  const header = JSON.parse(bytes.toString('utf8', HEAD_BYTES, at)) as Header;
  if (header.pass !== pass) return undefined;
  const tensor = ({ dtype, shape }: StoredTensor): HostTensor => {
    const count = shape.reduce((product, extent) => product * extent, DTYPE_BYTES[dtype]);
    const data = new Uint8Array(bytes.subarray(at, at + count)); // where elements may lie
    at += count;
    return { dtype, shape, data };
  };
  const carried = header.carried.map((of) => new Map(of.map(([name, stored]) => [name, tensor(stored)])));
  const found = new Map(
    header.found.map(([path, kind, rows, stored]): [string, Importance] => [path, { kind, moments: tensor(stored), rows }]),
  );
  return { ids: header.ids, done: header.done, carried, found };
}

/** What is kept in the file for a pass; undefined if nothing is. Throws ERR_OUTPUT_EXISTS for a file that is something else. */
export async function readKept(path: string, pass: string): Promise<KeptState | undefined> {
  return (await isKept(path)) ? decodeState(pass, await readFile(path)) : undefined;
}

/** Keeps states of a pass over these samples in the file. */
export function keeperOf(path: string, pass: string, ids: readonly (readonly number[])[], kept: KeptState | undefined): ImportanceKeeper {
  return {
    load: async () => kept,
    async save(state) {
      const next = `${path}.${process.pid}`;
      try {
        const file = await open(next, 'w');
        try {
          await file.writeFile(encodeState(pass, { ...state, ids }));
          await file.datasync();
        } finally {
          await file.close();
        }
        await rename(next, path);
      } catch (error) {
        await rm(next, { force: true });
        throw new LowbitError('ERR_IO', `cannot write ${path}: ${(error as Error).message}`, {
          hint: 'Free some space, or write to another disk.',
          details: { path, errno: (error as NodeJS.ErrnoException).code },
        });
      }
    },
  };
}

/** Whether there is a file of this module. Throws ERR_OUTPUT_EXISTS if there is another. */
async function isKept(path: string): Promise<boolean> {
  const info = await statIfThere(path, 'importance');
  if (!info) return false;
  if (info.isFile() && info.size >= HEAD_BYTES && info.size <= MOST_BYTES) {
    const file = await open(path, 'r');
    try {
      const { buffer } = await file.read(Buffer.alloc(MAGIC.length), 0, MAGIC.length, 0);
      if (buffer.toString('latin1') === MAGIC) return true;
    } finally {
      await file.close();
    }
  }
  throw new LowbitError('ERR_OUTPUT_EXISTS', `${path} is in the way, and it is not the work of an interrupted run`, {
    hint: 'Choose another output folder, or remove it yourself.',
    details: { path },
  });
}

/** As often as the locks of shards. */
const BEAT_MS = 15_000;

export interface KeepingOptions {
  readonly resume?: boolean | undefined;
  readonly overwrite?: boolean | undefined;
}

/**
 * Runs `work` with the file that importance for the output `out` is kept in. It is removed when the work is done, or has failed and need not be resumed.
 * Throws ERR_OUTPUT_EXISTS if one is there from an interrupted run, and neither `resume` nor `overwrite` is set, or while another run is at this output.
 */
export async function keepingImportance<T>(
  out: string,
  { resume = false, overwrite = false }: KeepingOptions,
  work: (file: string | undefined) => Promise<T>,
): Promise<T> {
  if (typeof out !== 'string' || out === '') return work(undefined); // which refuses it
  const file = `${resolve(out)}.importance`;
  await makeFolder(dirname(file));
  const lock = await takeLock(`${file}.lock`, { beatMs: BEAT_MS });
  try {
    await makeWay(file, { resume, overwrite });
    return await keepingIn(file, resume, work);
  } finally {
    await lock.release();
  }
}

async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true });
  } catch (cause) {
    throw new LowbitError('ERR_IO', `cannot make ${path}: ${(cause as Error).message}`, {
      hint: 'Choose another output folder.',
      details: { path, errno: (cause as NodeJS.ErrnoException).code },
      cause,
    });
  }
}

/** Looks at what an earlier run has left, and removes it if it may go. */
async function makeWay(file: string, { resume, overwrite }: KeepingOptions): Promise<void> {
  if (!(await isKept(file)) || resume) return;
  if (!overwrite) {
    throw new LowbitError('ERR_OUTPUT_EXISTS', `${file} is left from an interrupted run`, {
      hint: 'Pass --resume (resume: true) to continue it, or delete it.',
      details: { path: file },
    });
  }
  await rm(file);
}

async function keepingIn<T>(file: string, resume: boolean, work: (file: string) => Promise<T>): Promise<T> {
  try {
    const done = await work(file);
    await rm(file, { force: true });
    return done;
  } catch (error) {
    if (!resume) await rm(file, { force: true });
    throw error;
  }
}
