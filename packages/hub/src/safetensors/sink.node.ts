// A TensorSink that writes a model folder. Everything goes to `<out>.partial` beside the final folder: files have their full size from the start, so
// tensors arrive in any order and from several writers at once; a journal says which work is durable, so that an interrupted run can go on. Only
// `close` gives the folder its name, after everything has reached the disk.

import { type FileHandle, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import {
  addRange,
  disposedError,
  firstGap,
  type Json,
  LowbitError,
  quote,
  type Ranges,
  type TensorSink,
  type TensorSpec,
  writtenBytes,
} from '@lowbit/core';
import { guarded, writeFully } from '../io.node.ts';
import type { FilePlan } from './build.ts';
import { createCommits, type Unit } from './commits.ts';
import type { TensorPlace } from './header.ts';
import { JOURNAL_FILE } from './journal.node.ts';
import { createLateTensors, type LateWork, restoreLate, settleLate } from './late.node.ts';
import { checkSpace, dropStrangers, prepareFile, putFile, replaceFolder, syncFolder } from './output.node.ts';
import { openPartial, type PartialOptions } from './partial.node.ts';
import { INDEX_FILE, type PlannedFile, planSafetensors, type SafetensorsPlan, type ShardOptions } from './shards.ts';

export interface SafetensorsSinkOptions extends PartialOptions, ShardOptions {
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
  readonly layout: FilePlan;
  readonly handle: FileHandle;
  /** Bytes written, and those of them that no commit has claimed yet. */
  readonly written: Ranges;
  fresh: Ranges;
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
  let late: LateWork | undefined;
  const commits = createCommits(save);
  let state: 'open' | 'reserved' | 'closing' | 'finished' | 'closed' | 'disposed' = 'open';
  /** The `close` that is running or has succeeded. */
  let closing: Promise<void> | undefined;
  /** A failed sync leaves it unknown what is on the disk: nothing may be claimed after it. */
  let broken: unknown;

  function check(wanted: 'open' | 'reserved'): void {
    if (broken !== undefined) throw broken;
    if (state === 'disposed') throw disposedError(`the output ${folder}`);
    if (state !== 'open' && state !== 'reserved')
      throw new LowbitError('ERR_DISPOSED', `the output ${folder} is ${state} already`, { hint: 'Write everything before close.' });
    if (state === wanted) return;
    throw new LowbitError('ERR_BAD_ARGUMENT', state === 'open' ? 'reserve the tensors before writing them' : 'reserve was called before');
  }

  async function reserve(
    tensors: ReadonlyMap<string, TensorSpec>,
    metadata: Readonly<Record<string, string>>,
    lateNames: ReadonlySet<string> = new Set(),
  ): Promise<void> {
    check('open');
    const lateSpecs = new Map([...tensors].filter(([name]) => lateNames.has(name)));
    const plan = planSafetensors(tensors, metadata, { ...options, late: lateNames });
    if (lateSpecs.size > 0) late = { plan, metadata, names: lateNames, tensors: createLateTensors(lateSpecs) };
    state = 'reserved';
    try {
      await restoreLate(late, records, partial);
      await openFiles(plan);
    } catch (error) {
      broken = error;
      throw error;
    }
  }

  async function openFiles(plan: SafetensorsPlan): Promise<void> {
    const run = { resumed: records.length > 0 };
    await checkSpace(partial, plan.files);
    await dropStrangers(partial, new Set(plan.files.map(({ name }) => name)), run);
    for (const { name, layout } of plan.files) {
      const path = join(partial, name);
      const file: OpenFile = { name, path, layout, handle: await prepareFile(path, layout, run), written: [], fresh: [] };
      files.push(file);
      planned.push({ name, bytes: layout.size });
      for (const [tensor, place] of layout.tensors) places.set(tensor, { file, place });
    }
    for (const { wrote } of records) {
      for (const file of files) for (const [from, to] of wrote[file.name] ?? []) addRange(file.written, from, to);
    }
    if (plan.index !== undefined) {
      await putFile(join(partial, INDEX_FILE), plan.index);
      planned.push({ name: INDEX_FILE, bytes: plan.index.byteLength });
    }
    await syncFolder(partial);
  }

  async function write(name: string, at: number, data: Uint8Array): Promise<void> {
    check('reserved');
    const found = places.get(name);
    if (found === undefined) {
      throw new LowbitError('ERR_TENSOR_MISMATCH', `no tensor ${quote(name)} was reserved`, { details: { tensor: name } });
    }
    const { file, place } = found;
    if (late?.names.has(name)) return late.tensors.write(name, at, data);
    const [from, to] = writtenBytes(name, place, at, data.byteLength).map((byte) => place.start + byte) as [number, number];
    await guarded('write', file.path, () => writeFully(file.handle, data, from));
    // Marked after the write: a sync that starts earlier must not claim it.
    addRange(file.written, from, to);
    addRange(file.fresh, from, to);
  }

  async function commit(unit: string, note: Json): Promise<void> {
    check('reserved');
    await commits.add(unit, note);
  }

  /** Makes all that is written durable, and says so in the journal. */
  async function save(units: readonly Unit[]): Promise<void> {
    try {
      if (broken !== undefined) throw broken;
      const lateBytes = late?.tensors.fresh();
      const wrote: Record<string, Ranges> = {};
      const dirty = files.filter((file) => file.fresh.length > 0);
      for (const file of dirty) {
        wrote[file.name] = file.fresh;
        file.fresh = [];
      }
      await Promise.all(dirty.map((file) => guarded('write', file.path, () => file.handle.datasync())));
      await journal.append({ units, wrote, late: lateBytes });
      for (const { unit, note } of units) done.set(unit, note);
    } catch (error) {
      broken ??= error;
      throw error;
    }
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
    await putFile(join(partial, name), data);
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
      await commits.idle();
      await makeDurable();
    } catch (error) {
      state = 'reserved'; // what was missing can still be written
      throw error;
    }
    await closeHandles();
    // Everything is on the disk. Whatever happens now, this work is not thrown away: the journal goes last, so it can be resumed.
    state = 'finished';
    await replaceFolder(partial, folder, { overwrite: options.overwrite === true });
    state = 'closed';
    await rm(join(folder, JOURNAL_FILE), { force: true });
    await lock.release();
  }

  /** Checks that every tensor is there, and brings files into their final state and onto the disk. */
  async function makeDurable(): Promise<void> {
    if (broken !== undefined) throw broken;
    for (const file of files) checkComplete(file);
    late?.tensors.lengths();
    await lock.check();
    try {
      if (late !== undefined) await settle(late);
    } catch (error) {
      broken = error; // the files are between two states, which only a resume mends
      throw error;
    }
    await Promise.all(files.map((file) => guarded('write', file.path, () => file.handle.sync())));
    await syncFolder(partial);
  }

  async function settle(work: LateWork): Promise<void> {
    const final = await settleLate(work, files, journal, options);
    for (const [i, { name, layout }] of final.files.entries()) planned[i] = { name, bytes: layout.size };
    if (final.index === undefined) return;
    await putFile(join(partial, INDEX_FILE), final.index);
    planned[final.files.length] = { name: INDEX_FILE, bytes: final.index.byteLength };
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
      await commits.idle();
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
