// The journal of an unfinished output folder on disk.

import { type FileHandle, open } from 'node:fs/promises';
import { errnoOf, guarded, readFully, writeFully } from '../io.node.ts';
import {
  createJournal,
  type Journal,
  type JournalFile,
  type JournalRecord,
  journalHead,
  journalMismatch,
  resumeJournal,
} from './journal.ts';

/** Starts a journal; the file must not exist. */
export async function createJournalFile(path: string, fingerprint: string): Promise<Journal> {
  const handle = await guarded('write', path, () => open(path, 'wx'));
  return createJournal(journalFile(handle, path), fingerprint);
}

/** Whether the file exists, begins as a journal, and is of this job. Throws ERR_IO if it cannot be read. */
export async function isJournalOf(path: string, fingerprint: string): Promise<boolean> {
  const wanted = await journalHead(fingerprint);
  return guarded('read', path, async () => {
    let handle: FileHandle;
    try {
      handle = await open(path, 'r');
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return false;
      throw error;
    }
    try {
      const start = Buffer.alloc(wanted.byteLength);
      await readFully(handle, start, 0);
      return start.equals(wanted);
    } finally {
      await handle.close();
    }
  });
}

/** Opens the journal of an interrupted run. Throws ERR_JOURNAL_MISMATCH if it is missing, damaged, or of another job. */
export async function resumeJournalFile(
  path: string,
  fingerprint: string,
): Promise<{ readonly journal: Journal; readonly records: readonly JournalRecord[] }> {
  let handle: FileHandle;
  try {
    handle = await open(path, 'r+');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') throw journalMismatch(path, 'does not exist');
    return guarded('open', path, () => Promise.reject(error));
  }
  return resumeJournal(journalFile(handle, path), fingerprint);
}

function journalFile(handle: FileHandle, path: string): JournalFile {
  return {
    path,
    readAll: () => guarded('read', path, () => handle.readFile()),
    write: (data, at) =>
      guarded('write', path, async () => {
        await writeFully(handle, data, at);
        await handle.datasync();
      }),
    truncate: (size) => guarded('write', path, () => handle.truncate(size)),
    close: () => handle.close(),
  };
}
