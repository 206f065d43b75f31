// The unfinished folder of an output, `<out>.partial`: its lock, its journal, and what an earlier run has left of it.

import { lstat, mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { LowbitError } from '@lowbit/core';
import { guarded } from '../io.node.ts';
import { checkOutput, exists } from './existing.node.ts';
import { createJournalFile, isJournalOf, resumeJournalFile } from './journal.node.ts';
import { JOURNAL_FILE, type Journal, type JournalRecord } from './journal.ts';
import { type Lock, takeLock } from './lock.node.ts';
import { restoreReplaced } from './replaced.node.ts';
import type { PartialOptions } from './sink.ts';

export interface OpenedPartial {
  readonly lock: Lock;
  readonly journal: Journal;
  /** What an earlier run has committed. */
  readonly records: readonly JournalRecord[];
  /** The work had its final name already: it is never thrown away. */
  readonly reopened: boolean;
}

/**
 * Takes the lock of an output and starts, or resumes, its unfinished folder. Throws ERR_OUTPUT_EXISTS if the folder, or unfinished work, is there and
 * neither `resume` nor `overwrite` allows to go on, ERR_JOURNAL_MISMATCH if the unfinished work is of another job, ERR_IO.
 */
export async function openPartial(folder: string, partial: string, options: PartialOptions): Promise<OpenedPartial> {
  const { overwrite = false } = options;
  if (!(await isUntidied(folder, partial, options))) await checkOutput(folder, { overwrite });
  await guarded('write', dirname(partial), () => mkdir(dirname(partial), { recursive: true }));
  const lock = await takeLock(`${partial}.lock`);
  try {
    // Again, because the run that this journal is of may have been alive until now.
    const reopened = await isUntidied(folder, partial, options);
    // Back to the state before the last rename, which is resumed like any other.
    if (reopened) await guarded('write', folder, () => rename(folder, partial));
    else {
      // A run killed while it replaced the folder: a resume gives its work the name, any other run has only the old folder left.
      const dropped = overwrite && options.resume !== true;
      if (!(await exists(folder)) && (dropped || !(await exists(partial)))) await restoreReplaced(folder);
      await checkOutput(folder, { overwrite });
    }
    try {
      return { ...(await openJournal(partial, options)), lock, reopened };
    } catch (error) {
      if (reopened) await rename(partial, folder);
      throw error;
    }
  } catch (error) {
    await lock.release();
    throw error;
  }
}

/** Whether this job was killed between giving the folder its name and removing its journal, and may be resumed. */
async function isUntidied(folder: string, partial: string, { resume, fingerprint }: PartialOptions): Promise<boolean> {
  if (resume !== true || (await exists(partial)) || !(await exists(folder))) return false;
  const info = await guarded('open', folder, () => lstat(folder));
  return info.isDirectory() && isJournalOf(join(folder, JOURNAL_FILE), fingerprint);
}

async function openJournal(partial: string, options: PartialOptions): Promise<Pick<OpenedPartial, 'journal' | 'records'>> {
  const path = join(partial, JOURNAL_FILE);
  if (await exists(partial)) {
    const info = await guarded('open', partial, () => stat(partial));
    const names = info.isDirectory() ? await guarded('open', partial, () => readdir(partial)) : undefined;
    // A crash may come before the journal: then the folder is empty, and nothing is lost by starting over.
    const empty = names?.length === 0;
    if (options.resume === true && names?.includes(JOURNAL_FILE)) return resumeJournalFile(path, options.fingerprint);
    if (!empty && !names?.includes(JOURNAL_FILE)) {
      throw new LowbitError('ERR_OUTPUT_EXISTS', `${partial} is in the way, and it is not the work of an interrupted run`, {
        hint: 'Choose another output folder, or remove it yourself.',
        details: { path: partial },
      });
    }
    if (options.overwrite !== true && !(empty && options.resume)) {
      throw new LowbitError('ERR_OUTPUT_EXISTS', `${partial} is left from an interrupted run`, {
        hint: 'Pass --resume (resume: true) to continue it, or delete it.',
        details: { path: partial },
      });
    }
    await guarded('remove', partial, () => rm(partial, { recursive: true, force: true }));
  }
  await guarded('write', partial, () => mkdir(partial));
  try {
    return { journal: await createJournalFile(path, options.fingerprint), records: [] };
  } catch (error) {
    await rm(partial, { recursive: true, force: true });
    throw error;
  }
}
