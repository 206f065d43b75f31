// A TensorSink that writes a model folder, on disk or in a browser's store. Everything goes to an unfinished folder (on disk `<out>.partial` beside the
// final one): files have their full size from the start, so tensors arrive in any order and from several writers at once; a journal says which work is durable, so that an interrupted run can go on. Only
// `close` gives the folder its name, after everything has reached the disk.

import { type Json, LowbitError, quote, type TensorSink, type TensorSpec } from '@lowbit/core';
import { createCommits, type Unit } from './commits.ts';
import { JOURNAL_FILE } from './journal.ts';
import { createLateTensors, restoreLate } from './late.ts';
import type { Output } from './output.ts';
import { createOutputFiles } from './output-files.ts';
import { INDEX_FILE, type PlannedFile, planSafetensors, type ShardOptions } from './shards.ts';
import { closeSink, disposeSink, type SinkParts } from './sink-close.ts';
import { createSinkState } from './sink-state.ts';

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

/** A sink that writes into an output, which is the sink's from now on. */
export function sinkOver(output: Output, options: SafetensorsSinkOptions): SafetensorsSink {
  const { folder, partial, journal, records } = output;
  const files = createOutputFiles(output);
  const state = createSinkState(folder);
  const done = new Map<string, Json>();
  for (const { units } of records) for (const { unit, note } of units) done.set(unit, note);
  const parts: SinkParts = { output, files, state, commits: createCommits(save), done, late: undefined };
  /** The `close` that is running or has succeeded. */
  let closing: Promise<void> | undefined;

  async function reserve(
    tensors: ReadonlyMap<string, TensorSpec>,
    metadata: Readonly<Record<string, string>>,
    names: ReadonlySet<string> = new Set(),
  ): Promise<void> {
    state.check('open');
    const lateSpecs = new Map([...tensors].filter(([name]) => names.has(name)));
    const plan = planSafetensors(tensors, metadata, { ...options, late: names });
    const late = lateSpecs.size === 0 ? undefined : { plan, metadata, names, tensors: createLateTensors(lateSpecs) };
    parts.late = late;
    state.now = 'reserved';
    await state.breaking(async () => {
      await restoreLate(late, records, output);
      await files.open(plan);
    });
  }

  async function write(name: string, at: number, data: Uint8Array): Promise<void> {
    state.check('reserved');
    const placed = files.find(name);
    if (parts.late?.names.has(name)) return parts.late.tensors.write(name, at, data);
    await files.write(placed, at, data);
  }

  async function commit(unit: string, note: Json): Promise<void> {
    state.check('reserved');
    await parts.commits.add(unit, note);
  }

  /** Makes all that is written durable, and says so in the journal. */
  function save(units: readonly Unit[]): Promise<void> {
    return state.breaking(async () => {
      state.checkWhole();
      const late = parts.late?.tensors.fresh();
      await journal.append({ units, wrote: await files.flushFresh(), late });
      for (const { unit, note } of units) done.set(unit, note);
    });
  }

  async function writeFile(name: string, data: Uint8Array): Promise<void> {
    state.check('writable');
    checkFileName(name);
    await output.putFile(name, data);
  }

  function close(): Promise<void> {
    if (closing !== undefined) return closing;
    const attempt = closeSink(parts, options);
    closing = attempt;
    attempt.catch(() => {
      closing = undefined;
    });
    return attempt;
  }

  async function dispose(): Promise<void> {
    await closing?.catch(() => {}); // its caller hears of it
    await disposeSink(parts, { keepPartial: options.keepPartial === true });
  }

  return { folder, partial, files: files.planned, done, reserve, write, commit, writeFile, close, [Symbol.asyncDispose]: dispose };
}

/** Throws ERR_BAD_ARGUMENT for what is no plain name, and for names that are the sink's own. */
function checkFileName(name: string): void {
  const plain = /^[^/\\\0]+$/.test(name) && name !== '.' && name !== '..';
  if (plain && name !== JOURNAL_FILE && name !== INDEX_FILE && !/\.safetensors$/.test(name)) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `an output file cannot be called ${quote(name)}`, { details: { file: name } });
}
