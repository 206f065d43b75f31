// A browser's store as the output of a sink: the same journal and the same promises as a folder on disk, with the file `.whole` in place of a rename.

import { LowbitError } from '@lowbit/core';
import { createJournal, JOURNAL_FILE, type JournalFile, journalMismatch, resumeJournal } from '../safetensors/journal.ts';
import type { Output, OutputFile } from '../safetensors/output.ts';
import { INDEX_FILE } from '../safetensors/shards.ts';
import { type SafetensorsSink, type SafetensorsSinkOptions, sinkOver } from '../safetensors/sink.ts';
import { guarded } from './io.ts';
import type { StorageFile, StorageFolder } from './storage.ts';
import { type BrowserStore, checkModelName, type StoreInside, type Version, WHOLE_FILE } from './store.ts';

/**
 * Starts (or resumes) a model of the store. Throws ERR_OUTPUT_EXISTS if a model of that name, or unfinished work, is there and neither `resume` nor
 * `overwrite` allows to go on, or while another tab writes it; ERR_JOURNAL_MISMATCH if the unfinished work is of another job; ERR_IO.
 */
export async function createStoreSink(store: BrowserStore, name: string, options: SafetensorsSinkOptions): Promise<SafetensorsSink> {
  return sinkOver(await openStoreOutput(store as StoreInside, name, options), options);
}

async function openStoreOutput(store: StoreInside, name: string, options: SafetensorsSinkOptions): Promise<Output> {
  checkModelName(name);
  const exists = (problem: string, hint: string) => new LowbitError('ERR_OUTPUT_EXISTS', `${name} ${problem}`, { hint, details: { name } });
  const lock = await store.lockForWriting(name);
  if (lock === undefined) throw exists('is being written, here or in another tab', 'Wait for it, or choose another name.');
  try {
    return await guarded('write', name, async () => {
      const found = await store.versions(name);
      const whole = found.findLast((version) => version.whole);
      if (whole !== undefined && options.overwrite !== true) {
        throw exists('is saved already', 'Choose another name, or pass overwrite: true to replace it.');
      }
      const unfinished = await dropRemains(store, found, whole);
      const resumes = unfinished !== undefined && options.resume === true;
      if (unfinished !== undefined && !resumes) {
        if (options.overwrite !== true) {
          throw exists('is left from an interrupted run', 'Pass resume: true to continue it, or remove it.');
        }
        await store.removeVersion(unfinished);
      }
      const number = resumes ? unfinished.number : (found.at(-1)?.number ?? 0) + 1;
      const version: Version = { folder: `${name}@${number}`, number, whole: false };
      const folder = store.root.folder(version.folder);
      const file = journalFile(await folder.open(JOURNAL_FILE), `${name}/${JOURNAL_FILE}`);
      const opened = resumes ? await resumeJournal(file, options.fingerprint) : await startJournal(file);
      return {
        ...outputOf(store, name, version, folder),
        ...opened,
        check: async () => assertHeld(lock.held),
        release: () => lock.release(),
      };
    });
  } catch (error) {
    await lock.release();
    throw error;
  }

  /** Where there is no room even for the journal, nothing stays. */
  async function startJournal(file: JournalFile) {
    try {
      return { journal: await createJournal(file, options.fingerprint), records: [] };
    } catch (error) {
      await file.close().catch(() => {});
      for (const version of await store.versions(name)) if (!version.whole) await store.removeVersion(version);
      throw error;
    }
  }

  function assertHeld(held: boolean): void {
    if (!held) throw exists('was taken over by another tab', 'Start again when no other tab writes it.');
  }
}

/** Removes what killed tabs have left behind; gives the unfinished work that can be resumed. Only under the lock. */
async function dropRemains(store: StoreInside, found: readonly Version[], whole: Version | undefined): Promise<Version | undefined> {
  let unfinished: Version | undefined;
  for (const version of found) {
    if (version === whole) continue;
    const journal = !version.whole && (await store.root.folder(version.folder).names()).includes(JOURNAL_FILE);
    if (journal && version.number > (whole?.number ?? 0)) unfinished = version;
    else await store.removeVersion(version);
  }
  if (whole !== undefined) await store.root.folder(whole.folder).remove(JOURNAL_FILE);
  return unfinished;
}

function outputOf(
  store: StoreInside,
  name: string,
  version: Version,
  folder: StorageFolder,
): Omit<Output, 'journal' | 'records' | 'check' | 'release'> {
  const partial = `${name} (unfinished)`;
  const openFile = async (file: string): Promise<OutputFile> =>
    outputFile(await guarded('write', `${name}/${file}`, () => folder.open(file)), `${name}/${file}`);
  return {
    folder: name,
    partial,
    reopened: false,

    async checkSpace(files) {
      const space = await store.space();
      if (space === undefined) return;
      let needed = 0;
      for (const { name: file, layout } of files) needed += Math.max(0, layout.size - ((await folder.blob(file))?.size ?? 0));
      if (needed <= space.free) return;
      throw new LowbitError('ERR_IO', `cannot write ${name}: ${needed} bytes are needed, the browser gives this site ${space.free} more`, {
        hint: 'Remove saved models, free disk space, or quantize to fewer bits.',
        details: { path: name, exception: 'QuotaExceededError', needed, free: space.free },
      });
    },

    async dropStrangers(names, { resumed }) {
      for (const file of await folder.names()) {
        if ((!file.endsWith('.safetensors') && file !== INDEX_FILE) || names.has(file)) continue;
        if (resumed && file !== INDEX_FILE) throw journalMismatch(partial, `holds ${file}, which is not one of this run's files`);
        await folder.remove(file);
      }
    },

    async prepareFile(file, layout, { resumed }) {
      const path = `${name}/${file}`;
      return guarded('write', path, async () => {
        if (resumed && (await folder.blob(file)) === undefined) throw journalMismatch(path, 'is missing');
        const opened = await folder.open(file);
        try {
          if (resumed) {
            const header = new Uint8Array(layout.header.byteLength);
            await opened.read(header, 0);
            if ((await opened.size()) !== layout.size || header.some((byte, i) => byte !== layout.header[i])) {
              throw journalMismatch(path, 'holds other tensors than this run plans');
            }
          } else {
            await opened.truncate(0); // from a run that was interrupted before its first commit
            await opened.truncate(layout.size); // takes the room: what browsers say of it beforehand is vague
            await opened.write(layout.header, 0);
            await opened.flush();
          }
          return outputFile(opened, path);
        } catch (error) {
          await opened.close().catch(() => {}); // what went wrong first is what the caller must see
          throw error;
        }
      });
    },

    openFile,

    async putFile(file, data) {
      const opened = await openFile(file);
      try {
        await opened.truncate(0);
        await opened.write(data, 0);
        await opened.flush();
      } finally {
        await opened.close();
      }
    },

    async sync() {}, // names are durable at once

    publish: () => guarded('write', name, () => folder.mark(WHOLE_FILE)),

    async tidy() {
      await folder.remove(JOURNAL_FILE);
      // Folders that are still being read go when the model is written, or removed, the next time.
      for (const other of await store.versions(name)) if (other.number !== version.number) await store.removeVersion(other);
    },

    drop: () => guarded('remove', partial, () => store.root.removeFolder(version.folder)),
  };
}

function outputFile(file: StorageFile, path: string): OutputFile {
  return {
    write: (data, at) => guarded('write', path, () => file.write(data, at)),
    truncate: (size) => guarded('write', path, () => file.truncate(size)),
    flush: () => guarded('write', path, () => file.flush()),
    close: () => guarded('write', path, () => file.close()),
  };
}

function journalFile(file: StorageFile, path: string): JournalFile {
  return {
    path,
    async readAll() {
      const data = new Uint8Array(await file.size());
      return data.subarray(0, await guarded('read', path, () => file.read(data, 0)));
    },
    write: (data, at) =>
      guarded('write', path, async () => {
        await file.write(data, at);
        await file.flush();
      }),
    truncate: (size) => guarded('write', path, () => file.truncate(size)),
    close: () => file.close(),
  };
}
