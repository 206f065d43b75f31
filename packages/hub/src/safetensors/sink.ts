// A TensorSink that writes a model folder, on disk or in a browser's store. Everything goes to an unfinished folder (on disk `<out>.partial` beside the
// final one): files have their full size from the start, so tensors arrive in any order and from several writers at once; a journal says which work is durable, so that an interrupted run can go on. Only
// `close` gives the folder its name, after everything has reached the disk.

import { disposedError, type Json, LowbitError, quote, type TensorSink, type TensorSpec } from '@lowbit/core';
import { addRange, firstGap, type Ranges, writtenBytes } from '../plan/ranges.ts';
import type { FilePlan } from './build.ts';
import { createCommits, type Unit } from './commits.ts';
import type { TensorPlace } from './header.ts';
import { JOURNAL_FILE } from './journal.ts';
import { createLateTensors, type LateWork, restoreLate, settleLate } from './late.ts';
import type { Output, OutputFile } from './output.ts';
import { INDEX_FILE, type PlannedFile, planSafetensors, type SafetensorsPlan, type ShardOptions } from './shards.ts';

export interface PartialOptions {
  /** Equal for equal jobs only: same source, settings and version. A run resumes nothing else. */
  readonly fingerprint: string;
  /** Continue `<out>.partial` if there is one, or finish an output folder that this job was killed in with only its journal to remove. Default false. */
  readonly resume?: boolean;
  /** Replace an existing output folder (at `close`, and only if it holds a model or nothing) and drop unfinished work. Default false. */
  readonly overwrite?: boolean;
}

/** Of `createSafetensorsSink`. */
export interface SafetensorsSinkOptions extends PartialOptions, ShardOptions {
  /** Leave `<out>.partial` behind when disposed without `close` after a commit, to resume later. Default false. */
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
  readonly layout: FilePlan;
  readonly file: OutputFile;
  /** Bytes written, and those of them that no commit has claimed yet. */
  readonly written: Ranges;
  fresh: Ranges;
}

/** A sink that writes into an output, which is the sink's from now on. */
export function sinkOver(output: Output, options: SafetensorsSinkOptions): SafetensorsSink {
  const { folder, partial, journal, records, reopened } = output;

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
      await restoreLate(late, records, output);
      await openFiles(plan);
    } catch (error) {
      broken = error;
      throw error;
    }
  }

  async function openFiles(plan: SafetensorsPlan): Promise<void> {
    const run = { resumed: records.length > 0 };
    await output.checkSpace(plan.files);
    await output.dropStrangers(new Set(plan.files.map(({ name }) => name)), run);
    for (const { name, layout } of plan.files) {
      const file: OpenFile = { name, layout, file: await output.prepareFile(name, layout, run), written: [], fresh: [] };
      files.push(file);
      planned.push({ name, bytes: layout.size });
      for (const [tensor, place] of layout.tensors) places.set(tensor, { file, place });
    }
    for (const { wrote } of records) {
      for (const file of files) for (const [from, to] of wrote[file.name] ?? []) addRange(file.written, from, to);
    }
    if (plan.index !== undefined) {
      await output.putFile(INDEX_FILE, plan.index);
      planned.push({ name: INDEX_FILE, bytes: plan.index.byteLength });
    }
    await output.sync();
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
    await file.file.write(data, from);
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
      await Promise.all(dirty.map((file) => file.file.flush()));
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
    await output.putFile(name, data);
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
    await output.publish();
    state = 'closed';
    try {
      await output.tidy();
    } finally {
      await output.release();
    }
  }

  /** Checks that every tensor is there, and brings files into their final state and onto the disk. */
  async function makeDurable(): Promise<void> {
    if (broken !== undefined) throw broken;
    for (const file of files) checkComplete(file);
    late?.tensors.lengths();
    await output.check();
    try {
      if (late !== undefined) await settle(late);
    } catch (error) {
      broken = error; // the files are between two states, which only a resume mends
      throw error;
    }
    await Promise.all(files.map((file) => file.file.flush()));
    await output.sync();
  }

  async function settle(work: LateWork): Promise<void> {
    const final = await settleLate(
      work,
      files.map(({ file }) => file),
      journal,
      options,
    );
    for (const [i, { name, layout }] of final.files.entries()) planned[i] = { name, bytes: layout.size };
    if (final.index === undefined) return;
    await output.putFile(INDEX_FILE, final.index);
    planned[final.files.length] = { name: INDEX_FILE, bytes: final.index.byteLength };
  }

  async function closeHandles(): Promise<void> {
    await Promise.allSettled([journal.close(), ...files.map(({ file }) => file.close())]);
  }

  async function dispose(): Promise<void> {
    await closing?.catch(() => {}); // its caller hears of it
    if (state === 'closed' || state === 'disposed') return;
    const finished = state === 'finished'; // only its name is missing: kept for a resume
    state = 'disposed';
    try {
      await commits.idle();
      await closeHandles();
      // Without a commit there is nothing to go on with.
      if (finished || reopened || (options.keepPartial === true && done.size > 0)) return;
      await output.check();
      await output.drop();
    } finally {
      await output.release();
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
