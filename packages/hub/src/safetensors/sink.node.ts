// A TensorSink that writes a model folder. Everything goes to `<out>.partial` beside the final folder: files have their full size from the start, so
// tensors arrive in any order and from several writers at once; a journal says which work is durable, so that an interrupted run can go on. Only
// `close` gives the folder its name, after everything has reached the disk.

import { type FileHandle, lstat, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { DTYPE_BYTES, type Json, LowbitError, quote, type TensorSink, type TensorSpec } from '@lowbit/core';
import { guarded, writeFully } from '../io.node.ts';
import type { FileLayout } from './build.ts';
import type { TensorPlace } from './header.ts';
import { createJournal, isJournalOf, JOURNAL_FILE, type Journal, resumeJournal } from './journal.node.ts';
import { createLateTensors, type LateTensors, planDigest, settleFile, unsettleFile } from './late.node.ts';
import { type Lock, takeLock } from './lock.node.ts';
import { checkOutput, checkSpace, exists, prepareFile, replaceFolder, syncFolder } from './output.node.ts';
import { addRange, firstGap, type Ranges } from './ranges.ts';
import { restoreReplaced } from './replaced.node.ts';
import { INDEX_FILE, type PlannedFile, planSafetensors, type SafetensorsPlan, type ShardOptions, settlePlan } from './shards.ts';

export interface SafetensorsSinkOptions extends ShardOptions {
  /** Equal for equal jobs only: same source, settings and version. A run resumes nothing else. */
  readonly fingerprint: string;
  /** Continue `<out>.partial` if there is one, or finish an output folder that this job was killed in with only its journal to remove. Default false. */
  readonly resume?: boolean;
  /** Replace an existing output folder (at `close`, and only if it holds a model or nothing) and drop unfinished work. Default false. */
  readonly overwrite?: boolean;
  /** Leave `<out>.partial` behind when disposed without `close`, to resume later. Default false. */
  readonly keepPartial?: boolean;
}

export interface SafetensorsSink extends TensorSink {
  /** The final folder, absolute. */
  readonly folder: string;
  /** Where the work is until `close`. */
  readonly partial: string;
  /** Safetensors files and index with their sizes; empty before `reserve`. With late tensors these are the largest sizes until `close`. */
  readonly files: readonly PlannedFile[];
  /** Writes a whole other file, such as config.json, under a plain name. Durable by `close`. */
  writeFile(name: string, data: Uint8Array): Promise<void>;
}

interface OpenFile {
  readonly name: string;
  readonly path: string;
  readonly layout: FileLayout;
  readonly handle: FileHandle;
  /** Bytes written, and those of them that no commit has claimed yet. */
  readonly written: Ranges;
  fresh: Ranges;
}

interface Waiting {
  readonly plan: SafetensorsPlan;
  readonly metadata: Readonly<Record<string, string>>;
  readonly names: ReadonlySet<string>;
  readonly tensors: LateTensors;
}

interface PendingCommit {
  readonly unit: string;
  readonly note: Json;
  readonly resolve: () => void;
  readonly reject: (reason: unknown) => void;
}

/**
 * Starts (or resumes) an output folder. Throws ERR_OUTPUT_EXISTS if the folder, or unfinished work, is there and neither `resume` nor `overwrite`
 * allows to go on, ERR_JOURNAL_MISMATCH if the unfinished work is of another job, ERR_IO.
 */
export async function createSafetensorsSink(outDir: string, options: SafetensorsSinkOptions): Promise<SafetensorsSink> {
  const folder = resolve(outDir);
  const partial = `${folder}.partial`;
  const { journal, records, lock, reopened } = await openPartial(folder, partial, options);

  const done = new Map<string, Json>();
  for (const { units } of records) for (const { unit, note } of units) done.set(unit, note);
  const files: OpenFile[] = [];
  const places = new Map<string, { readonly file: OpenFile; readonly place: TensorPlace }>();
  const planned: PlannedFile[] = [];
  /** What `reserve` was called with, if there are late tensors. */
  let waiting: Waiting | undefined;
  const queue: PendingCommit[] = [];
  let running = false;
  let flushing: Promise<void> = Promise.resolve();
  let state: 'open' | 'reserved' | 'closing' | 'finished' | 'closed' | 'disposed' = 'open';
  /** The `close` that is running or has succeeded. */
  let closing: Promise<void> | undefined;
  /** A failed sync leaves it unknown what is on the disk: nothing may be claimed after it. */
  let broken: unknown;

  function check(wanted: 'open' | 'reserved'): void {
    if (broken !== undefined) throw broken;
    if (state !== 'open' && state !== 'reserved') throw new LowbitError('ERR_DISPOSED', `the output ${folder} is ${state} already`);
    if (state === wanted) return;
    throw new LowbitError('ERR_BAD_ARGUMENT', state === 'open' ? 'reserve the tensors before writing them' : 'reserve was called before');
  }

  async function reserve(
    tensors: ReadonlyMap<string, TensorSpec>,
    metadata: Readonly<Record<string, string>>,
    lateNames: ReadonlySet<string> = new Set(),
  ): Promise<void> {
    check('open');
    const late = new Map([...tensors].filter(([name]) => lateNames.has(name)));
    const plan = planSafetensors(tensors, metadata, { ...options, late: lateNames });
    if (late.size > 0) waiting = { plan, metadata, names: lateNames, tensors: createLateTensors(late) };
    state = 'reserved';
    try {
      await restoreLate();
      await openFiles(plan);
    } catch (error) {
      broken = error;
      throw error;
    }
  }

  /** Takes over late bytes of an earlier run, and undoes what its `close` may have begun. */
  async function restoreLate(): Promise<void> {
    const mismatch = (problem: string) =>
      new LowbitError('ERR_JOURNAL_MISMATCH', `cannot resume: ${partial} ${problem}`, {
        hint: 'Repeat the run with the same source, settings and shard size, or delete the unfinished folder and start again.',
        details: { path: partial },
      });
    if (waiting === undefined) {
      if (records.some(({ late, settling }) => late !== undefined || settling !== undefined)) throw mismatch('holds late tensors');
      return;
    }
    if (!waiting.tensors.restore(records)) throw mismatch('holds other late tensors than this run plans');
    const settling = records.findLast((record) => record.settling !== undefined)?.settling;
    if (settling === undefined) return;
    if (settling !== planDigest(waiting.plan)) throw mismatch('holds other tensors than this run plans');
    for (const { name, layout } of waiting.plan.files) await unsettleFile(join(partial, name), layout);
  }

  /** Gives late tensors their place, now that all lengths are known. */
  async function settle({ plan, metadata, names, tensors }: Waiting): Promise<void> {
    const final = settlePlan(plan, tensors.lengths(), metadata, { ...options, late: names });
    await journal.append({ units: [], wrote: {}, late: tensors.fresh(), settling: planDigest(plan) });
    for (const [i, { name, layout }] of final.files.entries()) {
      await settleFile(files[i]!.path, files[i]!.handle, layout, tensors);
      planned[i] = { name, bytes: layout.size };
    }
    if (final.index === undefined) return;
    await putFile(INDEX_FILE, final.index);
    planned[final.files.length] = { name: INDEX_FILE, bytes: final.index.byteLength };
  }

  async function openFiles(plan: SafetensorsPlan): Promise<void> {
    const strict = records.length > 0;
    await checkSpace(partial, plan.files);
    await dropStrangers(new Set(plan.files.map(({ name }) => name)), strict);
    for (const { name, layout } of plan.files) {
      const path = join(partial, name);
      const file: OpenFile = { name, path, layout, handle: await prepareFile(path, layout, strict), written: [], fresh: [] };
      files.push(file);
      planned.push({ name, bytes: layout.size });
      for (const [tensor, place] of layout.tensors) places.set(tensor, { file, place });
    }
    for (const { wrote } of records) {
      for (const file of files) for (const [from, to] of wrote[file.name] ?? []) addRange(file.written, from, to);
    }
    if (plan.index !== undefined) {
      await putFile(INDEX_FILE, plan.index);
      planned.push({ name: INDEX_FILE, bytes: plan.index.byteLength });
    }
    await syncFolder(partial);
  }

  /** Removes shards that this plan does not have. Committed work in other shards means that the shard size changed. */
  async function dropStrangers(names: ReadonlySet<string>, strict: boolean): Promise<void> {
    for (const name of await guarded('open', partial, () => readdir(partial))) {
      if ((!name.endsWith('.safetensors') && name !== INDEX_FILE) || names.has(name)) continue;
      if (strict && name !== INDEX_FILE) {
        throw new LowbitError('ERR_JOURNAL_MISMATCH', `cannot resume: ${join(partial, name)} is not one of this run's files`, {
          hint: 'Repeat the run with the same shard size, or delete the unfinished folder and start again.',
        });
      }
      await guarded('write', join(partial, name), () => rm(join(partial, name)));
    }
  }

  async function write(name: string, at: number, data: Uint8Array): Promise<void> {
    check('reserved');
    const found = places.get(name);
    if (found === undefined) {
      throw new LowbitError('ERR_TENSOR_MISMATCH', `no tensor ${quote(name)} was reserved`, { details: { tensor: name } });
    }
    const { file, place } = found;
    if (waiting?.names.has(name)) return waiting.tensors.write(name, at, data);
    const width = DTYPE_BYTES[place.dtype];
    const from = place.start + at * width;
    const to = from + data.byteLength;
    if (!Number.isSafeInteger(at) || at < 0 || data.byteLength % width !== 0 || to > place.end) {
      throw new LowbitError(
        'ERR_BAD_ARGUMENT',
        `${data.byteLength} bytes from element ${at} do not fit ${quote(name)}: ${place.dtype} [${place.shape.join(', ')}]`,
        { details: { tensor: name, at, bytes: data.byteLength } },
      );
    }
    await guarded('write', file.path, () => writeFully(file.handle, data, from));
    // Marked after the write: a sync that starts earlier must not claim it.
    addRange(file.written, from, to);
    addRange(file.fresh, from, to);
  }

  function commit(unit: string, note: Json): Promise<void> {
    return new Promise((resolve, reject) => {
      check('reserved');
      queue.push({ unit, note, resolve, reject });
      if (running) return;
      running = true;
      flushing = flush();
    });
  }

  /** Settles the queued commits, several at once if they came while the last sync was running. */
  async function flush(): Promise<void> {
    while (queue.length > 0) {
      const batch = queue.splice(0);
      try {
        if (broken !== undefined) throw broken;
        const late = waiting?.tensors.fresh();
        const wrote: Record<string, Ranges> = {};
        const dirty = files.filter((file) => file.fresh.length > 0);
        for (const file of dirty) {
          wrote[file.name] = file.fresh;
          file.fresh = [];
        }
        await Promise.all(dirty.map((file) => guarded('write', file.path, () => file.handle.datasync())));
        await journal.append({ units: batch.map(({ unit, note }) => ({ unit, note })), wrote, late });
        for (const { unit, note, resolve } of batch) {
          done.set(unit, note);
          resolve();
        }
      } catch (error) {
        broken ??= error;
        for (const { reject } of batch) reject(error);
      }
    }
    running = false; // at once with the last look at the queue, or a commit in between would wait for ever
  }

  async function putFile(name: string, data: Uint8Array): Promise<void> {
    const path = join(partial, name);
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

  async function writeFile(name: string, data: Uint8Array): Promise<void> {
    if (broken !== undefined || (state !== 'open' && state !== 'reserved')) check('reserved');
    if (
      !/^[^/\\\0]+$/.test(name) ||
      name === '.' ||
      name === '..' ||
      name === JOURNAL_FILE ||
      name === INDEX_FILE ||
      /\.safetensors$/.test(name)
    ) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `an output file cannot be called ${quote(name)}`, { details: { file: name } });
    }
    await putFile(name, data);
  }

  function close(): Promise<void> {
    if (closing !== undefined) return closing;
    const attempt = finish();
    closing = attempt;
    attempt.catch(() => {
      closing = undefined;
    });
    return attempt;
  }

  async function finish(): Promise<void> {
    check('reserved');
    state = 'closing';
    try {
      await flushing;
      await makeDurable();
    } catch (error) {
      state = 'reserved'; // what was missing can still be written
      throw error;
    }
    await closeHandles();
    // Everything is on the disk. Whatever happens now, this work is not thrown away: the journal goes last, so it can be resumed.
    state = 'finished';
    await replaceFolder(partial, folder, options.overwrite === true);
    state = 'closed';
    await rm(join(folder, JOURNAL_FILE), { force: true });
    await lock.release();
  }

  /** Checks that every tensor is there, and brings files into their final state and onto the disk. */
  async function makeDurable(): Promise<void> {
    if (broken !== undefined) throw broken;
    for (const file of files) checkComplete(file);
    waiting?.tensors.lengths();
    await lock.check();
    try {
      if (waiting !== undefined) await settle(waiting);
    } catch (error) {
      broken = error; // the files are between two states, which only a resume mends
      throw error;
    }
    await Promise.all(files.map((file) => guarded('write', file.path, () => file.handle.sync())));
    await syncFolder(partial);
  }

  async function closeHandles(): Promise<void> {
    await Promise.allSettled([journal.close(), ...files.map(({ handle }) => handle.close())]);
  }

  async function dispose(): Promise<void> {
    await closing?.catch(() => {}); // its caller hears of it
    if (state === 'closed' || state === 'disposed') return;
    const finished = state === 'finished'; // only its name is missing: kept for a resume
    state = 'disposed';
    try {
      await flushing;
      await closeHandles();
      if (finished || reopened || options.keepPartial === true) return;
      await lock.check();
      await guarded('remove', partial, () => rm(partial, { recursive: true, force: true }));
    } finally {
      await lock.release();
    }
  }

  return { folder, partial, files: planned, done, reserve, write, commit, writeFile, close, [Symbol.asyncDispose]: dispose };
}

interface Opened {
  readonly lock: Lock;
  readonly journal: Journal;
  readonly records: Awaited<ReturnType<typeof resumeJournal>>['records'];
  /** The work had its final name already: it is never thrown away. */
  readonly reopened: boolean;
}

async function openPartial(folder: string, partial: string, options: SafetensorsSinkOptions): Promise<Opened> {
  const { overwrite = false } = options;
  if (!(await isUntidied(folder, partial, options))) await checkOutput(folder, overwrite);
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
      await checkOutput(folder, overwrite);
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
async function isUntidied(folder: string, partial: string, { resume, fingerprint }: SafetensorsSinkOptions): Promise<boolean> {
  if (resume !== true || (await exists(partial)) || !(await exists(folder))) return false;
  const info = await guarded('open', folder, () => lstat(folder));
  return info.isDirectory() && isJournalOf(join(folder, JOURNAL_FILE), fingerprint);
}

async function openJournal(partial: string, options: SafetensorsSinkOptions): Promise<Pick<Opened, 'journal' | 'records'>> {
  const path = join(partial, JOURNAL_FILE);
  if (await exists(partial)) {
    const info = await guarded('open', partial, () => stat(partial));
    const names = info.isDirectory() ? await guarded('open', partial, () => readdir(partial)) : undefined;
    // A crash may come before the journal: then the folder is empty, and nothing is lost by starting over.
    const empty = names?.length === 0;
    if (options.resume === true && names?.includes(JOURNAL_FILE)) return resumeJournal(path, options.fingerprint);
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
    return { journal: await createJournal(path, options.fingerprint), records: [] };
  } catch (error) {
    await rm(partial, { recursive: true, force: true });
    throw error;
  }
}

function checkComplete(file: OpenFile): void {
  const gap = firstGap(file.written, file.layout.header.byteLength, file.layout.lateStart);
  if (gap === undefined) return;
  for (const [name, { start, end }] of file.layout.tensors) {
    if (gap < start || gap >= end) continue;
    throw new LowbitError(
      'ERR_BAD_ARGUMENT',
      `${quote(name)} was not written completely: byte ${gap - start} of ${end - start} is missing`,
      {
        hint: 'Every reserved tensor must be written before close.',
        details: { tensor: name, file: file.name },
      },
    );
  }
}
