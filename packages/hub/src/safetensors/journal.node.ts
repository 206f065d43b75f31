// The journal of an unfinished output folder: one JSON line per commit, appended only after the bytes it speaks of are on the disk. The first line
// names the job. A crash can tear the last line; it is then as if that commit had not happened.

import { createHash } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { type Json, LowbitError, type Ranges } from '@lowbit/core';
import { errnoOf, guarded, readFully } from '../io.node.ts';

export const JOURNAL_FILE = '.lowbit-journal.jsonl';
const VERSION = 1;

/** What a finished commit claims. */
export interface JournalRecord {
  readonly units: readonly { readonly unit: string; readonly note: Json }[];
  /** Bytes that became durable with it: file name -> ranges. */
  readonly wrote: Readonly<Record<string, Ranges>>;
  /** Late tensors that came with it: name -> base64. */
  readonly late?: Readonly<Record<string, string>> | undefined;
  /** From here on the files may be in their final state: the digest of the plan that they had been reserved by. */
  readonly settling?: string | undefined;
}

export interface Journal {
  /** Appends durably. One call at a time. */
  append(record: JournalRecord): Promise<void>;
  close(): Promise<void>;
}

function jobOf(fingerprint: string): string {
  return createHash('sha256').update(fingerprint).digest('hex');
}

function headOf(fingerprint: string): { readonly lowbit: number; readonly job: string } {
  return { lowbit: VERSION, job: jobOf(fingerprint) };
}

/** Starts a journal; the file must not exist. */
export async function createJournal(path: string, fingerprint: string): Promise<Journal> {
  return guarded('write', path, async () => {
    const handle = await open(path, 'wx');
    await appendLine(handle, headOf(fingerprint));
    return journalOver(handle, path);
  });
}

/** Whether the file exists, begins as a journal, and is of this job. Throws ERR_IO if it cannot be read. */
export async function isJournalOf(path: string, fingerprint: string): Promise<boolean> {
  const wanted = Buffer.from(`${JSON.stringify(headOf(fingerprint))}\n`);
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
export async function resumeJournal(
  path: string,
  fingerprint: string,
): Promise<{ readonly journal: Journal; readonly records: readonly JournalRecord[] }> {
  const mismatch = (problem: string) =>
    new LowbitError('ERR_JOURNAL_MISMATCH', `cannot resume: ${path} ${problem}`, {
      hint: 'Repeat the run with the same source, settings and version, or delete the unfinished folder and start again.',
      details: { path },
    });
  let handle: FileHandle;
  try {
    handle = await open(path, 'r+');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') throw mismatch('does not exist');
    return guarded('open', path, () => Promise.reject(error));
  }
  try {
    const bytes = await guarded('read', path, () => handle.readFile());
    const whole = bytes.subarray(0, bytes.lastIndexOf(0x0a) + 1);
    const lines = whole.toString('utf8').split('\n').slice(0, -1);
    if (lines.length === 0) {
      // Interrupted before the first line was whole: nothing can have been committed.
      await guarded('write', path, () => handle.truncate(0));
      const at = await guarded('write', path, () => appendLine(handle, headOf(fingerprint)));
      return { journal: journalOver(handle, path, at), records: [] };
    }
    const [first, ...rest] = lines.map((line) => parseLine(line));
    if (!isRecord(first) || first.lowbit !== VERSION || typeof first.job !== 'string') throw mismatch('is damaged');
    if (first.job !== jobOf(fingerprint)) throw mismatch('belongs to a different job');
    const records = rest.map((line) => toRecord(line) ?? fail(mismatch('is damaged')));
    // Drop a torn last line, so that the next one starts on its own.
    await guarded('write', path, () => handle.truncate(whole.byteLength));
    return { journal: journalOver(handle, path, whole.byteLength), records };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

function journalOver(handle: FileHandle, path: string, end?: number): Journal {
  let at = end;
  return {
    async append(record) {
      await guarded('write', path, async () => {
        at ??= (await handle.stat()).size;
        at += await appendLine(handle, record, at);
      });
    },
    close: () => handle.close(),
  };
}

async function appendLine(handle: FileHandle, value: unknown, at = 0): Promise<number> {
  const line = Buffer.from(`${JSON.stringify(value)}\n`);
  let done = 0;
  while (done < line.byteLength) done += (await handle.write(line, done, line.byteLength - done, at + done)).bytesWritten;
  await handle.datasync();
  return line.byteLength;
}

function parseLine(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

function toRecord(value: unknown): JournalRecord | undefined {
  if (!isRecord(value) || !Array.isArray(value.units) || !isRecord(value.wrote)) return undefined;
  const units: { unit: string; note: Json }[] = [];
  for (const item of value.units as unknown[]) {
    if (!isRecord(item) || typeof item.unit !== 'string') return undefined;
    units.push({ unit: item.unit, note: (item.note ?? null) as Json });
  }
  for (const ranges of Object.values(value.wrote)) if (!isRanges(ranges)) return undefined;
  const { late, settling } = value;
  if (late !== undefined && !(isRecord(late) && Object.values(late).every((text) => typeof text === 'string'))) return undefined;
  if (settling !== undefined && typeof settling !== 'string') return undefined;
  return { units, wrote: value.wrote as Record<string, Ranges>, late: late as Record<string, string> | undefined, settling };
}

function isRanges(value: unknown): value is Ranges {
  return (
    Array.isArray(value) &&
    value.every((range) => Array.isArray(range) && range.length === 2 && range.every((end) => Number.isSafeInteger(end)))
  );
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function fail(error: Error): never {
  throw error;
}
