// The output folder of a sink and its files on disk.

import { type FileHandle, lstat, open, readdir, rename, rm, statfs } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { LowbitError } from '@lowbit/core';
import { errnoOf, guarded, readFully, writeFully } from '../io.node.ts';
import type { FilePlan } from './build.ts';
import { checkOutput, exists } from './existing.node.ts';
import { JOURNAL_FILE } from './journal.ts';
import type { Output, OutputFile } from './output.ts';
import { openPartial } from './partial.node.ts';
import { asidePath, removeReplaced } from './replaced.node.ts';
import { INDEX_FILE } from './shards.ts';
import type { SafetensorsSinkOptions } from './sink.ts';

/** Throws ERR_IO if the disk has less room than the files still need. Says nothing where the file system does not know. */
async function checkSpace(folder: string, files: readonly { readonly name: string; readonly layout: FilePlan }[]): Promise<void> {
  const space = await statfs(folder).catch(() => undefined);
  if (space === undefined || space.blocks === 0) return;
  let needed = 0;
  for (const { name, layout } of files) {
    const blocks = await lstat(`${folder}/${name}`).then(
      (info) => info.blocks,
      () => 0,
    );
    needed += Math.max(0, layout.size - blocks * 512);
  }
  const free = space.bavail * space.bsize;
  if (needed <= free) return;
  throw new LowbitError('ERR_IO', `cannot write ${folder}: ${needed} bytes are needed, ${free} are free on that disk`, {
    hint: 'Free some space or write to another disk.',
    details: { path: folder, errno: 'ENOSPC', needed, free },
  });
}

/**
 * Creates a file of its full size with its header. `resumed`: it must be there from the run before, with just that header; otherwise
 * ERR_JOURNAL_MISMATCH.
 */
async function prepareFile(path: string, layout: FilePlan, { resumed }: { readonly resumed: boolean }): Promise<OutputFile> {
  return guarded('write', path, async () => {
    if (resumed && !(await exists(path))) throw mismatch(path, 'is missing');
    const handle = await open(path, resumed ? 'r+' : 'w');
    try {
      if (resumed) {
        const { size } = await handle.stat();
        const header = new Uint8Array(layout.header.byteLength);
        await readFully(handle, header, 0);
        if (size !== layout.size || Buffer.compare(header, layout.header) !== 0)
          throw mismatch(path, 'holds other tensors than this run plans');
      } else {
        await handle.truncate(layout.size);
        await writeFully(handle, layout.header, 0);
      }
      return outputFile(handle, path);
    } catch (error) {
      await handle.close();
      throw error;
    }
  });
}

/**
 * Removes safetensors files and an index that are not among `names`. Throws ERR_JOURNAL_MISMATCH for such a file if `resumed`: committed work in other
 * shards means that the shard size changed.
 */
async function dropStrangers(folder: string, names: ReadonlySet<string>, { resumed }: { readonly resumed: boolean }): Promise<void> {
  for (const name of await guarded('open', folder, () => readdir(folder))) {
    if ((!name.endsWith('.safetensors') && name !== INDEX_FILE) || names.has(name)) continue;
    const path = join(folder, name);
    if (resumed && name !== INDEX_FILE) {
      throw new LowbitError('ERR_JOURNAL_MISMATCH', `cannot resume: ${path} is not one of this run's files`, {
        hint: 'Repeat the run with the same shard size, or delete the unfinished folder and start again.',
      });
    }
    await guarded('write', path, () => rm(path));
  }
}

function outputFile(handle: FileHandle, path: string): OutputFile {
  return {
    write: (data, at) => guarded('write', path, () => writeFully(handle, data, at)),
    truncate: (size) => guarded('write', path, () => handle.truncate(size)),
    flush: () => guarded('write', path, () => handle.datasync()),
    close: () => handle.close(),
  };
}

/** Writes a whole small file durably; its name becomes durable with that of its folder. */
async function putFile(path: string, data: Uint8Array): Promise<void> {
  await guarded('write', path, async () => {
    const handle = await open(path, 'w');
    try {
      await writeFully(handle, data, 0);
      await handle.sync();
    } finally {
      await handle.close();
    }
  });
}

function mismatch(path: string, problem: string): LowbitError {
  return new LowbitError('ERR_JOURNAL_MISMATCH', `cannot resume: ${path} ${problem}`, {
    hint: 'Repeat the run with the same source and settings, or delete the unfinished folder and start again.',
    details: { path },
  });
}

/** Makes names in a folder durable. Does nothing where folders cannot be opened (Windows). */
async function syncFolder(folder: string): Promise<void> {
  if (process.platform === 'win32') return;
  await guarded('write', folder, async () => {
    const handle = await open(folder, 'r');
    try {
      await handle.sync();
    } catch (error) {
      if (errnoOf(error) !== 'EINVAL') throw error; // some network file systems do not know it
    } finally {
      await handle.close();
    }
  });
}

/** Gives a finished folder its name, replacing an old one if `overwrite`, and removes what killed runs had put aside. Only under the lock. */
async function replaceFolder(from: string, to: string, { overwrite }: { readonly overwrite: boolean }): Promise<void> {
  await guarded('write', to, async () => {
    // Again, because hours may have passed: rename would silently replace an empty folder.
    await checkOutput(to, { overwrite });
    const old = (await exists(to)) ? asidePath(to) : undefined;
    if (old !== undefined) {
      await rm(old, { recursive: true, force: true }); // a killed run may have had this process id
      await rename(to, old);
    }
    try {
      await rename(from, to);
    } catch (error) {
      if (old !== undefined) await rename(old, to);
      throw error;
    }
    await syncFolder(dirname(to));
    await removeReplaced(to);
  });
}

/**
 * Starts (or resumes) an output folder. Throws ERR_OUTPUT_EXISTS if the folder, or unfinished work, is there and neither `resume` nor `overwrite`
 * allows to go on, ERR_JOURNAL_MISMATCH if the unfinished work is of another job, ERR_IO.
 */
export async function openFolderOutput(outDir: string, options: SafetensorsSinkOptions): Promise<Output> {
  const folder = resolve(outDir);
  const partial = `${folder}.partial`;
  const { journal, records, lock, reopened } = await openPartial(folder, partial, options);
  return {
    folder,
    partial,
    journal,
    records,
    reopened,
    check: () => lock.check(),
    checkSpace: (files) => checkSpace(partial, files),
    dropStrangers: (names, run) => dropStrangers(partial, names, run),
    prepareFile: (name, layout, run) => prepareFile(join(partial, name), layout, run),
    openFile(name) {
      const path = join(partial, name);
      return guarded('write', path, async () => outputFile(await open(path, 'r+'), path));
    },
    putFile: (name, data) => putFile(join(partial, name), data),
    sync: () => syncFolder(partial),
    publish: () => replaceFolder(partial, folder, { overwrite: options.overwrite === true }),
    tidy: () => rm(join(folder, JOURNAL_FILE), { force: true }),
    drop: () => guarded('remove', partial, () => rm(partial, { recursive: true, force: true })),
    release: () => lock.release(),
  };
}
