// The journal of an unfinished output folder: one JSON line per commit, appended only after the bytes it speaks of are on the disk. The first line
// names the job. A crash can tear the last line; it is then as if that commit had not happened.

import { type Json, LowbitError } from '@lowbit/core';
import { sha256 } from '../digest.ts';
import type { Ranges } from '../plan/ranges.ts';

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

/** The file that a journal is kept in. */
export interface JournalFile {
  readonly path: string;
  readAll(): Promise<Uint8Array>;
  /** Writes at byte `at` and brings it to the disk. */
  write(data: Uint8Array, at: number): Promise<void>;
  truncate(size: number): Promise<void>;
  close(): Promise<void>;
}

/** The first line of a job's journal. */
export async function journalHead(fingerprint: string): Promise<Uint8Array> {
  return lineOf({ lowbit: VERSION, job: await sha256(fingerprint) });
}

/** Starts a journal in an empty file. */
export async function createJournal(file: JournalFile, fingerprint: string): Promise<Journal> {
  const head = await journalHead(fingerprint);
  await file.write(head, 0);
  return journalOver(file, head.byteLength);
}

/** Goes on with the journal of an interrupted run. Throws ERR_JOURNAL_MISMATCH if it is damaged or of another job; the file is then closed. */
export async function resumeJournal(
  file: JournalFile,
  fingerprint: string,
): Promise<{ readonly journal: Journal; readonly records: readonly JournalRecord[] }> {
  const mismatch = (problem: string) => journalMismatch(file.path, problem);
  try {
    const bytes = await file.readAll();
    const whole = bytes.subarray(0, bytes.lastIndexOf(0x0a) + 1);
    const lines = new TextDecoder().decode(whole).split('\n').slice(0, -1);
    if (lines.length === 0) {
      // Interrupted before the first line was whole: nothing can have been committed.
      await file.truncate(0);
      return { journal: await createJournal(file, fingerprint), records: [] };
    }
    const [first, ...rest] = lines.map((line) => parseLine(line));
    if (!isRecord(first) || first.lowbit !== VERSION || typeof first.job !== 'string') throw mismatch('is damaged');
    if (first.job !== (await sha256(fingerprint))) throw mismatch('belongs to a different job');
    const records = rest.map((line) => toRecord(line) ?? fail(mismatch('is damaged')));
    // Drop a torn last line, so that the next one starts on its own.
    await file.truncate(whole.byteLength);
    return { journal: journalOver(file, whole.byteLength), records };
  } catch (error) {
    await file.close();
    throw error;
  }
}

export function journalMismatch(path: string, problem: string): LowbitError {
  return new LowbitError('ERR_JOURNAL_MISMATCH', `cannot resume: ${path} ${problem}`, {
    hint: 'Repeat the run with the same source, settings and version, or delete the unfinished folder and start again.',
    details: { path },
  });
}

function journalOver(file: JournalFile, end: number): Journal {
  let at = end;
  return {
    async append(record) {
      const line = lineOf(record);
      await file.write(line, at);
      at += line.byteLength;
    },
    close: () => file.close(),
  };
}

function lineOf(value: unknown): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify(value)}\n`);
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
